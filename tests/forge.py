"""Artifacts that are not what they should be, made from a sound one. Knows the format, no fault.

What is written here is sealed like an artifact, so that whoever refuses it has looked behind the
seal. The format is spelled out a second time on purpose: it does not call the code under test.
"""

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as a file has it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Sound:
    """A valid artifact in its parts: what cases are made from."""

    data: bytes
    manifest: Mapping[str, Any]  # without its seal
    tensors: tuple[Tensor, ...]  # in the order of the file
    trap: Path  # a file that exists once anybody has unpickled one of the pickles made here

    @property
    def head(self) -> int:
        """Where the bytes of tensors begin."""
        return 8 + int.from_bytes(self.data[:8], "little")


def opened(data: bytes, trap: Path) -> Sound:
    """The parts of a valid artifact."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    manifest = json.loads(header.pop("__metadata__")["manifest"])
    del manifest["seal"]
    tensors = tuple(
        Tensor(
            name,
            e["dtype"],
            tuple(e["shape"]),
            data[start + e["data_offsets"][0] : start + e["data_offsets"][1]],
        )
        for name, e in header.items()
    )
    return Sound(data, manifest, tensors, trap)


def compact(value: Any) -> str:
    """JSON without spaces, in the order of the value."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def canonical(value: Any) -> str:
    """JSON without spaces, keys sorted; NaN and lone surrogates go through."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def seal(manifest: Mapping[str, Any], tensors: Iterable[Tensor]) -> str:
    """What an artifact of this manifest and these tensors carries as its proof."""
    rows = sorted(tensors, key=lambda t: t.name)
    table = canonical([[t.name, t.dtype, list(t.shape)] for t in rows])
    proof = hashlib.sha256(f"{canonical(manifest)}\n{table}\n".encode("utf-8", "surrogatepass"))
    for tensor in rows:
        proof.update(tensor.data)
    return proof.hexdigest()


def ordered(tensors: Iterable[Tensor]) -> list[Tensor]:
    """As they lie in a file: by size of a number, then by name."""
    rank = {"F64": 0, "I64": 0, "F32": 1, "I32": 1, "F16": 2, "BF16": 2, "U8": 3, "BOOL": 3}
    return sorted(tensors, key=lambda t: (rank.get(t.dtype, 4), t.name))


def table(tensors: Iterable[Tensor]) -> dict[str, Any]:
    """The entries of a header, for tensors that lie one behind the other."""
    entries, at = {}, 0
    for tensor in tensors:
        end = at + len(tensor.data)
        entries[tensor.name] = entry(tensor, at, end)
        at = end
    return entries


def entry(tensor: Tensor, begin: int, end: int) -> dict[str, Any]:
    """One entry of a header."""
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}


def framed(header: bytes | str, body: bytes, pad: bytes = b" ") -> bytes:
    """A file of this header and these bytes of tensors."""
    raw = header.encode() if isinstance(header, str) else header
    raw += pad * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + body


def written(manifest: str | Mapping[str, Any], tensors: Iterable[Tensor]) -> bytes:
    """A whole artifact; a manifest that is given as a text is taken as it is, seal included."""
    rows = list(tensors)
    text = manifest
    if not isinstance(text, str):
        text = canonical({**manifest, "seal": seal(manifest, rows)})
    header = {"__metadata__": {"manifest": text}, **table(rows)}
    return framed(compact(header), b"".join(t.data for t in rows))


Spoil = Callable[[Sound], bytes]


def manifest(**changes: Any) -> Spoil:
    """Changes a manifest: `backbone__digest` is the digest in backbone; `...` takes a key away."""

    def spoil(sound: Sound) -> bytes:
        value = json.loads(canonical(sound.manifest))
        for path, new in changes.items():
            *folders, key = path.split("__")
            place = value
            for folder in folders:
                place = place[folder]
            if new is ...:
                del place[key]
            else:
                place[key] = new(place[key]) if callable(new) else new
        return written(value, sound.tensors)

    return spoil


def text(old: str, new: str) -> Spoil:
    """Replaces a piece of the manifest's text; the seal is that of the old one."""

    def spoil(sound: Sound) -> bytes:
        whole = canonical({**sound.manifest, "seal": seal(sound.manifest, sound.tensors)})
        assert old in whole
        return written(whole.replace(old, new, 1), sound.tensors)

    return spoil


def header(old: str, new: str) -> Spoil:
    """Replaces a piece of the header's text; the bytes of tensors stay."""

    def spoil(sound: Sound) -> bytes:
        whole = sound.data[8 : sound.head].decode().rstrip(" ")
        assert old in whole
        return framed(whole.replace(old, new, 1), sound.data[sound.head :])

    return spoil


def tensor(end: str, **changes: Any) -> Spoil:
    """Replaces what is given of the first tensor whose name ends so; resealed."""

    def spoil(sound: Sound) -> bytes:
        at = find(sound, end)
        rows = list(sound.tensors)
        rows[at] = replace(
            rows[at], **{k: v(rows[at]) if callable(v) else v for k, v in changes.items()}
        )
        return written(sound.manifest, ordered(rows))

    return spoil


def values(end: str, dtype: str, shape: tuple[int, ...]) -> Spoil:
    """Gives a tensor another dtype and shape, filled with zeros; resealed."""
    size = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1}[dtype]
    count = int(np.prod(shape))
    return tensor(end, dtype=dtype, shape=shape, data=bytes(size * count))


def number(end: str, value: float) -> Spoil:
    """Puts one value into the middle of a tensor; resealed."""

    def data(old: Tensor) -> bytes:
        array = np.frombuffer(old.data, {"F16": "<f2", "F32": "<f4"}[old.dtype]).copy()
        array[len(array) // 2] = value
        return array.tobytes()

    return tensor(end, data=data)


def without(end: str) -> Spoil:
    """Takes a tensor away; resealed."""
    return lambda s: written(s.manifest, [t for t in s.tensors if not t.name.endswith(end)])


def extra(*names: str) -> Spoil:
    """Adds tensors of one byte; resealed."""
    more = [Tensor(name, "U8", (1,), b"\1") for name in names]
    return lambda s: written(s.manifest, ordered([*s.tensors, *more]))


def offsets(end: str, change: Callable[[int, int], tuple[Any, ...]], **other: Any) -> Spoil:
    """Lets a header's entry say other offsets (and other things); the bytes stay."""

    def spoil(sound: Sound) -> bytes:
        entries = table(sound.tensors)
        place = entries[sound.tensors[find(sound, end)].name]
        place |= {"data_offsets": list(change(*place["data_offsets"])), **other}
        whole = {
            "__metadata__": json.loads(sound.data[8 : sound.head])["__metadata__"],
            **entries,
        }
        return framed(compact(whole), sound.data[sound.head :])

    return spoil


def find(sound: Sound, end: str) -> int:
    """Which tensor is the first whose name ends so."""
    return next(i for i, t in enumerate(sound.tensors) if t.name.endswith(end))


class Trap:
    """Unpickling one makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def pickled(sound: Sound, protocol: int) -> bytes:
    """A bare pickle."""
    return pickle.dumps({"head.weight": Trap(sound.trap)}, protocol)


def saved(sound: Sound, *, archive: bool) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save({"w": Trap(sound.trap)}, file, _use_new_zipfile_serialization=archive)
    return file.getvalue()


def zipped(sound: Sound) -> bytes:
    """The artifact in an archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("adapter.safetensors", sound.data)
    return file.getvalue()


def arrays(sound: Sound) -> bytes:
    """What `numpy.savez` writes, with an object array, which would be unpickled."""
    file = io.BytesIO()
    np.savez(file, weight=np.array([Trap(sound.trap)], dtype=object))
    return file.getvalue()


def chain(*spoils: Spoil) -> Spoil:
    """One after the other, each on what the one before it made."""

    def spoil(sound: Sound) -> bytes:
        data = sound.data
        for one in spoils:
            data = one(opened(data, sound.trap))
        return data

    return spoil


@dataclass(frozen=True, slots=True)
class Case:
    """One bad artifact."""

    name: str
    spoil: Spoil
    status: int
    words: tuple[str, ...]  # each of which the answer's detail holds

    def __str__(self) -> str:
        return self.name


def of(status: int, *rows: tuple[object, ...]) -> tuple[Case, ...]:
    """A literal table of cases: name, how it is made, words."""
    return tuple(Case(name, spoil, status, words) for name, spoil, *words in rows)
