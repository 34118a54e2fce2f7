"""Our own API under /v1: one task, or several for one image. Knows its paths, headers and JSON."""

import json
import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from loadtest.images import Picture
from loadtest.targets.protocol import Answer, Said
from loadtest.wire import Origin, header_lines


class Rootstock:
    """POST /v1/tasks/{task}:predict, or /v1/predict?task=… for several."""

    def __init__(
        self,
        origin: Origin,
        headers: dict[str, str],
        names: Sequence[str],
        pictures: Sequence[Picture],
    ) -> None:
        names = [quote(name, safe="") for name in names]
        self._begin = [
            f"POST {origin.path}/v1/tasks/{name}:predict?top_k=2 HTTP/1.1\r\n".encode()
            for name in names
        ]
        self._query = [f"&task={name}".encode() for name in names]
        self._many = f"POST {origin.path}/v1/predict?top_k=2".encode()
        fixed = header_lines(origin, headers)
        self._end = [
            (
                f"{fixed}Content-Type: {picture.media}\r\n"
                f"Content-Length: {len(picture.data)}\r\n\r\n"
            ).encode()
            for picture in pictures
        ]
        self._body = [picture.data for picture in pictures]

    def request(
        self, tasks: Sequence[int], image: int, deadline_ms: float, min_generation: int
    ) -> tuple[bytes, ...]:
        """Of the API; deadline and generation as headers."""
        if len(tasks) == 1:
            begin = self._begin[tasks[0]]
        else:
            query = b"".join([self._query[task] for task in tasks])
            begin = self._many + query + b" HTTP/1.1\r\n"
        if deadline_ms:
            begin += b"X-Request-Deadline-Ms: %d\r\n" % max(round(deadline_ms), 1)
        if min_generation:
            begin += b"X-Min-Generation: %d\r\n" % min_generation
        return begin + self._end[image], self._body[image]

    def read(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """Of the API."""
        value = json.loads(body)
        results = value.get("results", [value])
        generation = headers.get(b"x-generation")
        digest = headers.get(b"x-adapter-digest")
        return Answer(
            said=tuple(_said(result) for result in results),
            generation=None if generation is None else int(generation),
            header_digest=None if digest is None else digest.decode(),
        )


def _said(result: dict[str, Any]) -> Said:
    if "predictions" not in result:
        status = int(result["status"])
        if status < 400:
            raise ValueError("neither predictions nor a refusal")
        return Said(status=status)
    best = result["predictions"]
    second = best[1]["probability"] if len(best) > 1 else 0.0
    margin = best[0]["probability"] - second
    label, digest = best[0]["label"], result["digest"]
    if not (isinstance(label, str) and isinstance(digest, str) and math.isfinite(margin)):
        raise ValueError("no label, no digest, or no number")
    return Said(
        task=result["task"],
        label=label,
        margin=margin,
        digest=digest,
        release=int(result["release"]),
    )
