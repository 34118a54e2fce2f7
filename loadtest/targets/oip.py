"""The Open Inference Protocol, version 2: Triton, KServe, MLServer, and ours.

Knows its JSON, and the tensors that follow it or, where a server reads no binary, lie in it. One
image a request.
"""

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from loadtest.images import Picture, pixels
from loadtest.scenario import Target as Asked
from loadtest.targets.protocol import Answer, Said
from loadtest.wire import Origin, header_lines

_HEADER: Final = b"inference-header-content-length"
_DTYPES: Final = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4"}


class OpenInference:
    """POST /v2/models/{task}/infer."""

    def __init__(
        self,
        origin: Origin,
        asked: Asked,
        names: Sequence[str],
        pictures: Sequence[Picture],
    ) -> None:
        self._begin = [
            f"POST {origin.path}/v2/models/{quote(name, safe='')}/infer HTTP/1.1\r\n".encode()
            for name in names
        ]
        self._fixed = header_lines(origin, asked.headers).encode()
        self._asked = asked
        tensors = [self._tensor(picture) for picture in pictures]
        self._inputs = [self._input(tensor) for tensor in tensors]
        self._tail = tensors if asked.binary else [b""] * len(tensors)

    def _tensor(self, picture: Picture) -> bytes:
        match self._asked.datatype:
            case "FP32" if picture.good:
                asked = self._asked
                return pixels(picture, asked.size, asked.mean, asked.std)
            case "BYTES" if self._asked.binary:
                return struct.pack("<I", len(picture.data)) + picture.data
            case _:  # what is no picture has no pixels
                return picture.data

    def _input(self, tensor: bytes) -> bytes:
        """The JSON of an input, which is the same for every request of an image."""
        asked = self._asked
        shapes = {
            "BYTES": (1,),
            "UINT8": (1, len(tensor)),
            "FP32": (1, 3, asked.size, asked.size),
        }
        one: dict[str, Any] = {
            "name": asked.input,
            "shape": asked.shape or shapes[asked.datatype],
            "datatype": asked.datatype,
        }
        if asked.binary:
            one["parameters"] = {"binary_data_size": len(tensor)}
        elif asked.datatype == "BYTES":
            one["parameters"] = {"content_type": "base64"}
            one["data"] = [base64.b64encode(tensor).decode()]
        else:
            kind = "<f4" if asked.datatype == "FP32" and len(tensor) % 4 == 0 else "u1"
            one["data"] = np.frombuffer(tensor, kind).tolist()
        return json.dumps(one).encode()

    def request(
        self, tasks: Sequence[int], image: int, deadline_ms: float, min_generation: int
    ) -> tuple[bytes, ...]:
        """Of the protocol; the deadline as Triton's `timeout` in microseconds."""
        tail = self._tail[image]
        text = b'{"inputs": [%b]%b}' % (self._inputs[image], self._rest(deadline_ms))
        begin = self._begin[tasks[0]] + self._fixed
        if min_generation:
            begin += b"X-Min-Generation: %d\r\n" % min_generation
        if self._asked.binary:
            begin += b"Content-Type: application/octet-stream\r\n"
            begin += b"Inference-Header-Content-Length: %d\r\n" % len(text)
        else:
            begin += b"Content-Type: application/json\r\n"
        return begin + b"Content-Length: %d\r\n\r\n" % (len(text) + len(tail)) + text, tail

    def _rest(self, deadline_ms: float) -> bytes:
        """What a call says beside its input."""
        asked = self._asked
        call: dict[str, Any] = {}
        if asked.label_output:
            call["outputs"] = [{"name": asked.label_output}]
            if asked.binary:
                call["outputs"][0]["parameters"] = {"binary_data": True}
        elif asked.binary:
            call["parameters"] = {"binary_data_output": True}
        if deadline_ms:
            call.setdefault("parameters", {})["timeout"] = round(1000 * deadline_ms)
        return b", " + json.dumps(call).encode()[1:-1] if call else b""

    def read(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """Of the protocol: the label output, or the place of the largest element."""
        size = headers.get(_HEADER)
        text = body if size is None else body[: int(size)]
        value = json.loads(text)
        tail = memoryview(body)[len(text) :]
        wanted = self._asked.label_output
        for output in value["outputs"]:
            length = (output.get("parameters") or {}).get("binary_data_size")
            data: Any = output.get("data") if length is None else tail[:length]
            tail = tail[length or 0 :]
            if wanted in ("", output["name"]):
                label, margin = _label(output["datatype"], data)
                said = Said(label=label, margin=margin, digest=_digest(headers))
                generation = headers.get(b"x-generation")
                return Answer((said,), None if generation is None else int(generation))
        raise KeyError(wanted)


def _digest(headers: dict[bytes, bytes]) -> str | None:
    digest = headers.get(b"x-adapter-digest")
    return None if digest is None else digest.decode()


def _label(datatype: str, data: Any) -> tuple[str, float]:
    if datatype == "BYTES":
        if isinstance(data, list):
            return str(data[0]), 1.0
        length = int.from_bytes(data[:4], "little")
        if len(data) < 4 + length:
            raise ValueError("an element is longer than its tensor")
        return bytes(data[4 : 4 + length]).decode(), 1.0
    if isinstance(data, list):
        values = np.array(data, np.float64).ravel()
    else:
        values = np.frombuffer(data, _DTYPES[datatype]).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("not finite")
    if len(values) == 1:
        return str(values[0]), 1.0
    second, first = np.sort(values)[-2:]
    return str(int(np.argmax(values))), float(first - second)
