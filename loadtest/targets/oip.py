"""The Open Inference Protocol, version 2, with binary tensors: Triton, KServe, MLServer, and ours.

Knows its JSON and how tensors follow it. One image a request.
"""

import json
import struct
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from loadtest.images import Picture, pixels
from loadtest.scenario import Target as Asked
from loadtest.targets.protocol import Answer, Said
from loadtest.wire import Origin

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
        fixed = {"Host": origin.authority, **asked.headers}
        self._fixed = "".join(f"{k}: {v}\r\n" for k, v in fixed.items()).encode()
        self._asked = asked
        self._tensors = [self._tensor(picture) for picture in pictures]

    def _tensor(self, picture: Picture) -> bytes:
        if self._asked.datatype == "BYTES" or not picture.good:
            return struct.pack("<I", len(picture.data)) + picture.data
        return pixels(picture, self._asked.size, self._asked.mean, self._asked.std)

    def request(
        self, tasks: Sequence[int], image: int, deadline_ms: float, min_generation: int
    ) -> tuple[bytes, ...]:
        """Of the protocol; the deadline as Triton's `timeout` in microseconds."""
        asked, tensor = self._asked, self._tensors[image]
        of_bytes = asked.datatype == "BYTES"
        call: dict[str, Any] = {
            "inputs": [
                {
                    "name": asked.input,
                    "shape": [1] if of_bytes else [1, 3, asked.size, asked.size],
                    "datatype": asked.datatype,
                    "parameters": {"binary_data_size": len(tensor)},
                }
            ]
        }
        if not asked.label_output:
            call["parameters"] = {"binary_data_output": True}
        else:
            binary = {"binary_data": True}
            call["outputs"] = [{"name": asked.label_output, "parameters": binary}]
        if deadline_ms:
            call.setdefault("parameters", {})["timeout"] = round(1000 * deadline_ms)
        text = json.dumps(call).encode()
        begin = self._begin[tasks[0]] + self._fixed
        if min_generation:
            begin += b"X-Min-Generation: %d\r\n" % min_generation
        return (
            begin
            + b"Content-Type: application/octet-stream\r\n"
            + b"Inference-Header-Content-Length: %d\r\n" % len(text)
            + b"Content-Length: %d\r\n\r\n" % (len(text) + len(tensor))
            + text,
            tensor,
        )

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
                return Answer((said,))
        raise KeyError(wanted)


def _digest(headers: dict[bytes, bytes]) -> str | None:
    digest = headers.get(b"x-adapter-digest")
    return None if digest is None else digest.decode()


def _label(datatype: str, data: Any) -> tuple[str, float]:
    if datatype == "BYTES":
        if isinstance(data, list):
            return str(data[0]), 1.0
        (length,) = struct.unpack_from("<I", data)
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
