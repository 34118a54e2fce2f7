"""The Open Inference Protocol on the wire: bytes to what is asked, and answers to bytes. Pure.

Knows version 2 of its JSON, and Triton's extensions for binary tensors and for classification; no
HTTP and no task. Whatever the bytes are, they are read or refused with a reason.
"""

import base64
import binascii
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import MediaUnsupportedError, RequestInvalidError, TooLargeError

INPUT: Final = "image"
PROBABILITIES: Final = "probabilities"
LABEL: Final = "label"
OUTPUTS: Final = (PROBABILITIES, LABEL)

_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_CODINGS: Final = ("gzip", "deflate")
_DIGITS_MAX: Final = 18
_TENSORS_MAX: Final = 16  # named in one call; more than there are
# Commas and brackets in a call's JSON. Images are strings that hold none, and every value of a long
# list would become an object before anybody looks at it: five million in ten megabytes.
_MARKS_MAX: Final = 16_384
_Size = Annotated[int, Field(ge=0, le=2**40)]


class _Part(BaseModel):
    """Of a request. What it holds beside its fields is no concern of this server."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _InputParameters(_Part):
    binary_data_size: _Size | None = None
    shared_memory_region: Any = None


class _Input(_Part):
    name: str
    datatype: str
    shape: Annotated[list[_Size], Field(min_length=1, max_length=2)]
    parameters: _InputParameters | None = None
    data: Any = None


class _OutputParameters(_Part):
    binary_data: bool | None = None
    classification: _Size = 0
    shared_memory_region: Any = None


class _Output(_Part):
    name: str
    parameters: _OutputParameters | None = None


class _Parameters(_Part):
    binary_data_output: bool = False
    timeout: _Size = 0  # in microseconds, as Triton has it; 0: none


class _Request(_Part):
    id: Annotated[str, Field(max_length=1024)] | None = None
    parameters: _Parameters | None = None
    inputs: Annotated[list[_Input], Field(max_length=_TENSORS_MAX)]
    outputs: Annotated[list[_Output], Field(max_length=_TENSORS_MAX)] | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output as it is to be sent."""

    name: str
    binary: bool
    classes: int = 0  # of the classification extension; 0: the tensor itself


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call wants."""

    images: tuple[bytes, ...]
    outputs: tuple[Wanted, ...]
    id: str | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Computed:
    """What one release says to all images of a call."""

    model: str
    version: str
    labels: tuple[str, ...]
    odds: Sequence[NDArray[np.float64]]  # [labels] of each image


def inflated(body: bytes, coding: str, limit_bytes: int) -> bytes:
    """The body without its Content-Encoding; never more than the limit is inflated.

    Raises:
        MediaUnsupportedError, TooLargeError, RequestInvalidError
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _CODINGS:
        raise MediaUnsupportedError(f"Content-Encoding: {coding}", _CODINGS)
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        plain = stream.decompress(body, limit_bytes + 1)
    except zlib.error:
        raise RequestInvalidError(f"the body is not {coding}") from None
    if len(plain) > limit_bytes:
        raise TooLargeError(limit_bytes)
    if not stream.eof or stream.unused_data:
        raise RequestInvalidError(f"the body is not one whole {coding} stream")
    return plain


def read(body: bytes, header_length: str | None, images_max: int) -> Asked:
    """What the body of an `infer` call asks for.

    Args:
        body: JSON, then the tensors that it announces as binary.
        header_length: what Inference-Header-Content-Length says; without it all of it is JSON, and
            at 0 all of it is one image, whose answer is wanted as binary.
        images_max: more are refused.

    Raises:
        RequestInvalidError: it is none, or asks for what no task has.
    """
    if header_length is None:
        return _asked(body, b"", images_max)
    text = header_length.strip()
    if not (text.isascii() and text.isdecimal()) or len(text) > _DIGITS_MAX:
        raise RequestInvalidError("Inference-Header-Content-Length is not a number")
    size = int(text)
    if size > len(body):
        raise RequestInvalidError("Inference-Header-Content-Length is more than the body has")
    if size == 0:
        return Asked((body,), tuple(Wanted(name, binary=True) for name in OUTPUTS))
    return _asked(body[:size], body[size:], images_max)


def written(asked: Asked, computed: Computed) -> tuple[bytes, int | None]:
    """The answer's body, and the length of its JSON where binary tensors follow."""
    outputs, tail = [], b""
    for wanted in asked.outputs:
        datatype, values = _tensor(wanted, computed)
        output: dict[str, Any] = {
            "name": wanted.name,
            "datatype": datatype,
            "shape": list(values.shape),
        }
        if wanted.binary:
            data = values.tobytes() if datatype == "FP32" else packed(values.ravel().tolist())
            output["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            output["data"] = values.ravel().tolist()
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": computed.model, "model_version": computed.version}
    if asked.id is not None:
        answer["id"] = asked.id
    head = json.dumps(answer | {"outputs": outputs}).encode()
    return head + tail, len(head) if any(w.binary for w in asked.outputs) else None


def packed(texts: Sequence[str]) -> bytes:
    """A BYTES tensor as binary: each element behind its length, four bytes, little-endian."""
    elements = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(e)) + e for e in elements)


def _tensor(wanted: Wanted, computed: Computed) -> tuple[str, NDArray[Any]]:
    if wanted.name == LABEL:
        best = [computed.labels[int(np.argmax(row))] for row in computed.odds]
        return "BYTES", np.array(best, object)
    if not wanted.classes:
        return "FP32", np.stack(computed.odds).astype("<f4")
    count = min(wanted.classes, len(computed.labels))
    rows = [
        [
            f"{np.float32(row[i])!s}:{i}:{computed.labels[i]}"
            for i in np.argsort(-row, kind="stable")[:count]
        ]
        for row in computed.odds
    ]
    return "BYTES", np.array(rows, object)


def _asked(head: bytes, tail: bytes, images_max: int) -> Asked:
    if sum(map(head.count, (b",", b"[", b"{"))) > _MARKS_MAX:
        raise RequestInvalidError(f"the JSON holds more than {_MARKS_MAX} values")
    try:
        request = _Request.model_validate_json(head)
    except ValidationError as error:
        raise RequestInvalidError(_reason(error)) from None
    if [tensor.name for tensor in request.inputs] != [INPUT]:
        raise RequestInvalidError(f"a call has one input, and its name is {INPUT!r}")
    how = request.parameters or _Parameters()
    outputs = request.outputs or [_Output(name=name) for name in OUTPUTS]
    return Asked(
        images=_images(request.inputs[0], tail, images_max),
        outputs=_wanted(outputs, binary=how.binary_data_output),
        id=request.id,
        timeout_s=how.timeout / 1e6 or None,
    )


def _wanted(outputs: Sequence[_Output], *, binary: bool) -> tuple[Wanted, ...]:
    names = [output.name for output in outputs]
    for name in names:
        if name not in OUTPUTS:
            raise RequestInvalidError(f"no output {name[:80]!r}; there are {', '.join(OUTPUTS)}")
        if names.count(name) > 1:
            raise RequestInvalidError(f"the output {name!r} is asked for twice")
    wanted = []
    for output in outputs:
        how = output.parameters or _OutputParameters()
        _refuse_shared_memory(how.shared_memory_region)
        if how.classification and output.name != PROBABILITIES:
            raise RequestInvalidError(f"classification is of {PROBABILITIES!r} alone")
        chosen = binary if how.binary_data is None else how.binary_data
        wanted.append(Wanted(output.name, chosen, how.classification))
    return tuple(wanted)


def _images(tensor: _Input, tail: bytes, images_max: int) -> tuple[bytes, ...]:
    if tensor.datatype != "BYTES":
        raise RequestInvalidError(f"{INPUT!r} is of datatype BYTES: each element an encoded image")
    if len(tensor.shape) == 2 and tensor.shape[1] != 1:
        raise RequestInvalidError(f"{INPUT!r} has the shape [n] or [n, 1]")
    how = tensor.parameters or _InputParameters()
    _refuse_shared_memory(how.shared_memory_region)
    size = how.binary_data_size
    if (size or 0) != len(tail):
        raise RequestInvalidError(
            f"{len(tail)} bytes follow the JSON, binary_data_size says {size or 0}"
        )
    if size is None:
        found = _from_json(tensor.data, images_max)
    elif tensor.data is None:
        found = _from_binary(tail, images_max)
    else:
        raise RequestInvalidError(f"{INPUT!r} has both data and binary_data_size")
    if len(found) != tensor.shape[0]:
        raise RequestInvalidError(f"{INPUT!r} has {len(found)} elements, its shape says otherwise")
    if not found:
        raise RequestInvalidError(f"{INPUT!r} is empty")
    return tuple(found)


def _from_binary(data: bytes, images_max: int) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(data):
        if len(found) == images_max:
            raise _too_many(images_max)
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if start > len(data) or at > len(data):
            raise RequestInvalidError(f"element {len(found)} of {INPUT!r} is cut off")
        found.append(data[start:at])
    return found


def _from_json(data: Any, images_max: int) -> list[bytes]:
    if not isinstance(data, list):
        raise RequestInvalidError(f"{INPUT!r} has no list 'data'")
    if len(data) > images_max:
        raise _too_many(images_max)
    found = []
    for i, element in enumerate(data):
        value = element[0] if isinstance(element, list) and len(element) == 1 else element
        if not isinstance(value, str):
            raise RequestInvalidError(f"element {i} of {INPUT!r} is not a string")
        try:
            found.append(base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            raise RequestInvalidError(f"element {i} of {INPUT!r} is not base64") from None
    return found


def _refuse_shared_memory(region: Any) -> None:
    if region is not None:
        raise RequestInvalidError("no memory is shared with clients; send tensors in the body")


def _too_many(images_max: int) -> RequestInvalidError:
    return RequestInvalidError(f"more than {images_max} images in one call")


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))[:80] or "body"
    return f"{where}: {first['msg'][:200]}"
