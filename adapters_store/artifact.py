"""The artifact: an adapter as the bytes of one safetensors file. Knows no backbone and no torch.

Reading is a trust boundary. The header is read and checked by hand before any tensor is touched,
because the library accepts files that say the same thing in several ways; here one adapter has
exactly one text. Every fault is collected; the caller sees them all at once.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import save

from adapters_store.adapter import HEAD_BIAS, HEAD_WEIGHT, Adapter
from adapters_store.errors import ArtifactInvalidError
from adapters_store.manifest import Manifest, canonical

ARTIFACT_BYTES_MAX: Final = 512 * 2**20
HEADER_BYTES_MAX: Final = 16 * 2**20
_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "U8": np.dtype("u1"),
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_FAULTS_SHOWN: Final = 50


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
    header, start = _header(data, name)
    metadata = header.pop("__metadata__", None)
    faults: list[str] = []
    tensors = _tensors(header, data, start, faults)
    manifest, seal = _manifest(metadata, faults)
    faults += _not_finite(tensors)
    if manifest is not None:
        faults += _head_faults(manifest, tensors)
        if seal != _seal(canonical(manifest.model_dump(mode="json")), tensors):
            faults.append("the seal does not match: bytes were changed after export")
    if faults or manifest is None:
        shown = faults[:_FAULTS_SHOWN]
        if len(faults) > len(shown):
            shown.append(f"… and {len(faults) - len(shown)} more")
        raise ArtifactInvalidError(name, tuple(shown))
    return Adapter(manifest=manifest, tensors=tensors)


def _seal(manifest: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Sha256 over the manifest without its seal, the tensor table and the tensor bytes."""
    table = [[n, _NAMES[t.dtype], list(t.shape)] for n, t in sorted(tensors.items())]
    proof = hashlib.sha256(f"{manifest}\n{canonical(table)}\n".encode())
    for _, tensor in sorted(tensors.items()):
        proof.update(tensor.tobytes())
    return proof.hexdigest()


def _header(data: bytes, name: str) -> tuple[dict[str, Any], int]:
    """The parsed header and where the tensor bytes begin; unreadable headers end the reading."""

    def refuse(*faults: str) -> ArtifactInvalidError:
        return ArtifactInvalidError(name, faults)

    if len(data) > ARTIFACT_BYTES_MAX:
        raise refuse(f"{len(data)} bytes; at most {ARTIFACT_BYTES_MAX} are read")
    if len(data) < 8:
        raise refuse(f"{len(data)} bytes are too few for a safetensors file")
    length = int.from_bytes(data[:8], "little")
    if length > min(HEADER_BYTES_MAX, len(data) - 8):
        raise refuse("no safetensors file, or a truncated one: the header's length is out of range")
    raw = data[8 : 8 + length]
    try:
        text = raw.decode("utf-8")
        header = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        same = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise refuse(f"the header is not JSON: {str(error)[:120]}") from None
    if not isinstance(header, dict):
        raise refuse("the header is not a JSON object")
    if raw != same + b" " * (-len(same) % 8):
        raise refuse("the header is not in its one canonical form")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key appears twice")
    return table


def _no_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not allowed")


def _tensors(
    header: Mapping[str, Any], data: bytes, start: int, faults: list[str]
) -> dict[str, NDArray[Any]]:
    """Views into `data` for every entry of the header that is sound; the rest become faults."""
    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, NDArray[Any]] = {}
    room = len(data) - start
    for name, entry in header.items():
        fault, view = _view(entry, room)
        if fault or view is None:
            faults.append(f"tensor {name[:100]!r}: {fault}")
            continue
        dtype, shape, begin, end = view
        spans.append((begin, end, name))
        flat = np.frombuffer(data, dtype, int(np.prod(shape, dtype=np.int64)), start + begin)
        tensors[name] = flat.reshape(shape)
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            faults.append(f"tensor {name[:100]!r}: its bytes overlap others or leave a gap")
        at = end
    if at != room and not faults:
        faults.append(f"{room} bytes of tensors, but the header accounts for {at}")
    return tensors


def _view(
    entry: Any, room: int
) -> tuple[str, tuple[np.dtype[Any], tuple[int, ...], int, int] | None]:
    """What one header entry says: (fault, nothing) or (no fault, dtype, shape, begin, end)."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
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


def _manifest(metadata: Any, faults: list[str]) -> tuple[Manifest | None, str]:
    if not isinstance(metadata, dict) or set(metadata) != {"manifest"}:
        faults.append("the metadata must hold one key, 'manifest', and nothing else")
        return None, ""
    text = metadata["manifest"]
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if not isinstance(value, dict) or canonical(value) != text:
            raise ValueError("not canonical JSON of an object")  # noqa: TRY301
        seal = str(value.pop("seal", ""))
        manifest = Manifest.model_validate_json(canonical(value))
    except ValidationError as error:
        for e in error.errors(include_url=False, include_input=False):
            where = ".".join(str(part) for part in e["loc"])[:100]
            faults.append(f"manifest {where}: {e['msg']}")
        return None, ""
    except (ValueError, TypeError, RecursionError) as error:
        faults.append(f"manifest: {str(error)[:120]}")
        return None, ""
    return manifest, seal


def _not_finite(tensors: Mapping[str, NDArray[Any]]) -> list[str]:
    return [
        f"tensor {name[:100]!r} holds NaN or infinite values"
        for name, t in tensors.items()
        if t.dtype.kind == "f" and not np.isfinite(t).all()
    ]


def _head_faults(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> list[str]:
    """A head has one row and one bias a label, in F32."""
    faults = []
    labels = len(manifest.labels)
    weight, bias = tensors.get(HEAD_WEIGHT), tensors.get(HEAD_BIAS)
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
        faults.append("head.weight is missing, or not an F32 matrix")
    elif weight.shape[0] != labels:
        faults.append(f"head.weight has {weight.shape[0]} rows for {labels} labels")
    if bias is None or bias.shape != (labels,) or bias.dtype != np.float32:
        faults.append(f"head.bias is missing, or not {labels} F32 numbers")
    if len(set(manifest.labels)) != labels:
        faults.append("two labels are the same")
    return faults
