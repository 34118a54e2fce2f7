"""The artifact: an adapter as the bytes of one safetensors file. Knows no backbone and no torch.

Reading is a trust boundary. The header is read and checked by hand before any tensor is touched,
because the library accepts files that say the same thing in several ways; here one adapter has
exactly one text. Every fault is collected; the caller sees them all at once.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import save

from adapters_store.adapter import HEAD_BIAS, HEAD_WEIGHT, Adapter
from adapters_store.errors import ArtifactInvalidError
from adapters_store.manifest import Manifest, canonical

ARTIFACT_BYTES_MAX: Final = 512 * 2**20
HEADER_BYTES_MAX: Final = 8 * 2**20
TENSORS_MAX: Final = 2**13
# The parts of a header cost memory, many times their bytes: bounded before it is parsed.
_OPENINGS_MAX: Final = 2**17  # three a tensor; the rest is for labels
_COMMAS_MAX: Final = 2**19  # 50 000 labels have 200 000 golden logits; the rest is for labels
_KEYS_MAX: Final = 256  # in one object of a manifest
_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "U8": np.dtype("u1"),
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_ORDER: Final = tuple(_DTYPES)  # of tensors in a file; by name within a dtype
_NAME: Final = re.compile(r"\w{1,64}(\.\w{1,64}){0,15}", re.ASCII)
_FAULTS_SHOWN: Final = 50
_FAULT_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the bytes of an artifact say, as far as they could be read, and all that is wrong."""

    manifest: Manifest | None
    tensors: Mapping[str, NDArray[Any]]  # the sound entries of the header; views into the bytes
    named: frozenset[str]  # every tensor that the header names
    faults: tuple[str, ...]


def digest(data: bytes) -> str:
    """The name of an artifact: sha256 of its bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def write(adapter: Adapter) -> bytes:
    """The bytes of an adapter; the same adapter always gives the same bytes.

    Raises:
        ArtifactInvalidError: a tensor has a dtype that no artifact holds, or is not finite.
    """
    tensors = {name: np.ascontiguousarray(t) for name, t in sorted(adapter.tensors.items())}
    faults = [
        f"tensor {name!r} has dtype {t.dtype}, not F16, F32 or U8"
        for name, t in tensors.items()
        if t.dtype not in _NAMES
    ]
    faults += _not_finite(tensors)
    if faults:
        raise ArtifactInvalidError(adapter.manifest.task, tuple(faults))
    manifest = adapter.manifest.model_dump(mode="json")
    manifest["seal"] = _seal(canonical(manifest), tensors)
    # One metadata key alone: with several, their order in the file is random.
    data: bytes = save(dict(tensors), metadata={"manifest": canonical(manifest)})
    return data


def read(data: bytes, name: str = "artifact") -> Adapter:
    """The adapter in these bytes, proven whole and undamaged by its own seal.

    What it does not check: that the tensors fit a backbone or a method (`admission.admit` does).

    Raises:
        ArtifactInvalidError: with every fault that was found.
    """
    found = inspect(data)
    if found.faults or found.manifest is None:
        raise ArtifactInvalidError(name, shown(found.faults))
    return Adapter(manifest=found.manifest, tensors=found.tensors)


def inspect(data: bytes) -> Reading:
    """Everything that these bytes say and everything that is wrong with them; raises nothing."""
    try:
        header, start = _header(data)
    except ValueError as error:
        return Reading(manifest=None, tensors={}, named=frozenset(), faults=(str(error),))
    faults: list[str] = []
    if "__metadata__" in header and next(iter(header)) != "__metadata__":
        faults.append("the metadata must come first")
    metadata = header.pop("__metadata__", None)
    tensors, sound = _tensors(header, data, start, faults)
    manifest, seal, labels = _manifest(metadata, faults)
    faults += _head_faults(header, tensors, labels)
    if sound:  # bytes that belong to several tensors, or to none, are not looked at
        faults += _not_finite(tensors)
    if manifest is not None:
        text = manifest.model_dump(mode="json")
        if metadata["manifest"] != canonical({**text, "seal": seal}):
            faults.append("manifest: not in its one canonical form")
        if sound and seal != _seal(canonical(text), tensors):
            faults.append("the seal does not match: bytes were changed after export")
        if manifest.effect and any(len(row) != labels for row in manifest.effect.logits):
            faults.append(f"manifest.effect.logits: not {labels} numbers a row, one a label")
    return Reading(
        manifest=manifest, tensors=tensors, named=frozenset(header), faults=tuple(faults)
    )


def shown(faults: Sequence[str]) -> tuple[str, ...]:
    """Faults as they are told: a hostile file makes neither a long list nor a long line."""
    listed = [
        fault if len(fault) <= _FAULT_CHARACTERS else f"{fault[:_FAULT_CHARACTERS]}…"
        for fault in faults[:_FAULTS_SHOWN]
    ]
    if len(faults) > len(listed):
        listed.append(f"… and {len(faults) - len(listed)} more")
    return tuple(listed)


def _seal(manifest: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Sha256 over the manifest without its seal, the tensor table and the tensor bytes."""
    table = [[n, _NAMES[t.dtype], list(t.shape)] for n, t in sorted(tensors.items())]
    proof = hashlib.sha256(f"{manifest}\n{canonical(table)}\n".encode())
    for _, tensor in sorted(tensors.items()):
        proof.update(tensor.reshape(-1).data)  # no copy: there may be half a gigabyte
    return proof.hexdigest()


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The parsed header and where the tensor bytes begin.

    Raises:
        ValueError: it cannot be read, which ends the reading; the text is the fault.
    """
    if len(data) > ARTIFACT_BYTES_MAX:
        raise ValueError(f"{len(data)} bytes; at most {ARTIFACT_BYTES_MAX} are read")
    if len(data) < 8:
        raise ValueError(f"{len(data)} bytes are too few for a safetensors file")
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise ValueError(
            "no safetensors file, or a truncated one: the header's length is out of range"
        )
    if length > HEADER_BYTES_MAX:
        raise ValueError(f"a header of {length} bytes; at most {HEADER_BYTES_MAX} are read")
    raw = data[8 : 8 + length]
    if raw.count(b"[") + raw.count(b"{") > _OPENINGS_MAX or raw.count(b",") > _COMMAS_MAX:
        raise ValueError("the header has more parts than an artifact can have")
    try:
        text = raw.decode("utf-8")
        header = json.loads(text, object_pairs_hook=_tensor_table, parse_constant=_no_constant)
        same = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header is not JSON: {str(error)[:120]}") from None
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")  # noqa: TRY004 (of the file, not of us)
    if raw != same + b" " * (-len(same) % 8):
        raise ValueError("the header is not in its one canonical form")
    return header, 8 + length


def _tensor_table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > TENSORS_MAX + 1:
        raise ValueError(f"more than {TENSORS_MAX} tensors")
    return _unique(pairs)


def _few(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _KEYS_MAX:
        raise ValueError(f"an object has more than {_KEYS_MAX} keys")
    return _unique(pairs)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key appears twice")
    return table


def _no_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not allowed")


def _tensors(
    header: Mapping[str, Any], data: bytes, start: int, faults: list[str]
) -> tuple[dict[str, NDArray[Any]], bool]:
    """Views into `data` for every sound entry, and whether each byte belongs to exactly one.

    Tensors lie in one order and without gaps: otherwise one adapter would have many texts, and a
    thousand entries over the same bytes would have to be looked at a thousand times.
    """
    room, sound = len(data) - start, True
    at: int | None = 0  # where the next one begins, if that can be told
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        fault, view = _view(entry, room)
        if not _NAME.fullmatch(name):
            faults.append(f"tensor {name[:100]!a}: no tensor has such a name")
        if fault or view is None:
            faults.append(f"tensor {name[:100]!a}: {fault}")
            sound, at = False, None
            continue
        dtype, shape, begin, end = view
        if at is not None and begin != at:
            faults.append(f"tensor {name[:100]!a}: its bytes overlap others or leave a gap")
            sound = False
        at = end
        flat = np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, start + begin)
        tensors[name] = flat.reshape(shape)
    if sound and at != room:
        faults.append(f"{room} bytes of tensors, but the header accounts for {at}")
        sound = False
    if sound and list(tensors) != sorted(tensors, key=lambda n: (_rank(tensors[n]), n)):
        faults.append("the tensors are not in their one order: by dtype, then by name")
    return tensors, sound


def _rank(tensor: NDArray[Any]) -> int:
    return _ORDER.index(_NAMES[tensor.dtype])


def _view(
    entry: Any, room: int
) -> tuple[str, tuple[np.dtype[Any], tuple[int, ...], int, int] | None]:
    """What one header entry says: (fault, nothing) or (no fault, dtype, shape, begin, end)."""
    if not isinstance(entry, dict) or list(entry) != ["dtype", "shape", "data_offsets"]:
        return "its entry is malformed", None
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        return f"dtype {str(entry['dtype'])[:20]!r} is not F16, F32 or U8", None
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape, 0, 8) or not _naturals(offsets, 2, 2) or 0 in shape:
        return "shape or offsets are not short lists of natural numbers, or it is empty", None
    size = dtype.itemsize
    for n in shape:
        size *= n
    begin, end = offsets
    if end > room:
        return f"it ends at byte {end} of {room}: the file is truncated", None
    if end - begin != size:
        return f"{end - begin} bytes for a shape of {size}", None
    return "", (dtype, tuple(shape), begin, end)


def _naturals(value: Any, least: int, most: int) -> bool:
    if not isinstance(value, list) or not least <= len(value) <= most:
        return False
    return all(type(n) is int and 0 <= n < 2**40 for n in value)


def _manifest(metadata: Any, faults: list[str]) -> tuple[Manifest | None, Any, int | None]:
    """The manifest, its seal, and how many labels it has, each as far as it can be had."""
    if not isinstance(metadata, dict) or set(metadata) != {"manifest"}:
        faults.append("the metadata must hold one key, 'manifest', and nothing else")
        return None, None, None
    labels = None
    try:
        value = json.loads(
            metadata["manifest"], object_pairs_hook=_few, parse_constant=_no_constant
        )
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")  # noqa: TRY301, TRY004
        seal = value.pop("seal", None)
        given = value.get("labels")
        labels = len(given) if isinstance(given, list) else None
        manifest = Manifest.model_validate_json(canonical(value))
    except ValidationError as error:
        for e in error.errors(include_url=False, include_input=False, include_context=False):
            where = ".".join(str(part) for part in ("manifest", *e["loc"]))[:100]
            faults.append(f"{_printed(where)}: {e['msg'].removeprefix('Value error, ')}")
        return None, None, labels
    except (ValueError, TypeError, RecursionError) as error:
        faults.append(f"manifest: {str(error)[:120]}")
        return None, None, labels
    return manifest, seal, labels


def _printed(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _not_finite(tensors: Mapping[str, NDArray[Any]]) -> list[str]:
    return [
        f"tensor {name[:100]!a} holds NaN or infinite values"
        for name, t in tensors.items()
        if t.dtype.kind == "f" and not np.isfinite(t).all()
    ]


def _head_faults(
    header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], labels: int | None
) -> list[str]:
    """A head has one row and one bias a label, in F32."""
    faults = [f"{name} is missing" for name in (HEAD_WEIGHT, HEAD_BIAS) if name not in header]
    weight, bias = tensors.get(HEAD_WEIGHT), tensors.get(HEAD_BIAS)
    if weight is not None:
        if weight.ndim != 2 or weight.dtype != np.float32:
            faults.append("head.weight is not an F32 matrix")
        elif labels is not None and weight.shape[0] != labels:
            faults.append(f"head.weight has {weight.shape[0]} rows for {labels} labels")
    if bias is not None:
        if bias.ndim != 1 or bias.dtype != np.float32:
            faults.append("head.bias is not an F32 vector")
        elif labels is not None and bias.shape[0] != labels:
            faults.append(f"head.bias has {bias.shape[0]} numbers for {labels} labels")
    return faults
