"""Any other server: an image is posted to a path. Knows three kinds of bodies, and JSON answers."""

import base64
import json
from collections.abc import Sequence
from urllib.parse import quote

from loadtest.images import Picture
from loadtest.scenario import Target as Asked
from loadtest.targets.protocol import Answer, Said
from loadtest.wire import Origin

_BOUNDARY = "loadtest-7d1f0c5e9b"


class Plain:
    """POST to a path that may hold {task}."""

    def __init__(
        self, origin: Origin, asked: Asked, names: Sequence[str], pictures: Sequence[Picture]
    ) -> None:
        self._begin = [
            f"POST {origin.path}{asked.path.replace('{task}', quote(name, safe=''))} HTTP/1.1\r\n"
            f"Host: {origin.authority}\r\n".encode()
            for name in names
        ]
        fixed = "".join(f"{k}: {v}\r\n" for k, v in asked.headers.items())
        packed = [_packed(asked, picture) for picture in pictures]
        self._end = [
            f"{fixed}Content-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            for media, body in packed
        ]
        self._body = [body for _, body in packed]
        self._label = None if asked.label is None else asked.label.split(".")

    def request(
        self, tasks: Sequence[int], image: int, deadline_ms: float, min_generation: int
    ) -> tuple[bytes, ...]:
        """Deadlines and generations are not spoken of."""
        return self._begin[tasks[0]] + self._end[image], self._body[image]

    def read(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """The label, where it is told that there is one."""
        if self._label is None:
            return Answer((Said(),))
        value = json.loads(body)
        for step in self._label:
            value = value[int(step)] if isinstance(value, list) else value[step]
        return Answer((Said(label=str(value)),))


def _packed(asked: Asked, picture: Picture) -> tuple[str, bytes]:
    """Media type and bytes of a body."""
    if asked.body == "json":
        value = {asked.field: base64.b64encode(picture.data).decode()}
        return "application/json", json.dumps(value).encode()
    if asked.body == "multipart":
        before = (
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; "
            f'name="{asked.field}"; filename="image"\r\nContent-Type: {picture.media}\r\n\r\n'
        )
        after = f"\r\n--{_BOUNDARY}--\r\n"
        body = before.encode() + picture.data + after.encode()
        return f"multipart/form-data; boundary={_BOUNDARY}", body
    return picture.media, picture.data
