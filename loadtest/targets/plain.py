"""Any other server: an image is posted to a path. Knows four kinds of bodies, and JSON answers."""

import base64
import json
from collections.abc import Sequence
from urllib.parse import quote

from loadtest.images import Picture
from loadtest.scenario import Target as Asked
from loadtest.targets.protocol import Answer, Said
from loadtest.wire import Origin, header_lines

_BOUNDARY = "loadtest-7d1f0c5e9b"


class Plain:
    """POST to a path; path, headers and a template of JSON may hold {task}."""

    def __init__(
        self, origin: Origin, asked: Asked, names: Sequence[str], pictures: Sequence[Picture]
    ) -> None:
        self._begin = [
            f"POST {origin.path}{asked.path.replace('{task}', quote(name, safe=''))} HTTP/1.1\r\n"
            f"{header_lines(origin, _named(asked.headers, name))}".encode()
            for name in names
        ]
        media = any(name.lower() == "content-type" for name in asked.headers)
        packed = [_packed(asked, picture) for picture in pictures]
        self._type = [b"" if media else f"Content-Type: {of}\r\n".encode() for of, _ in packed]
        self._body = [body for _, body in packed]
        per_task = asked.body == "template" and "{task}" in asked.template
        self._names = [json.dumps(name)[1:-1].encode() for name in names] if per_task else None
        self._label = None if asked.label is None else asked.label.split(".")

    def request(
        self, tasks: Sequence[int], image: int, deadline_ms: float, min_generation: int
    ) -> tuple[bytes, ...]:
        """Deadlines and generations are not spoken of."""
        task, body = tasks[0], self._body[image]
        if self._names is not None:
            body = body.replace(b"{task}", self._names[task])
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        return self._begin[task] + self._type[image] + length, body

    def read(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """The label, where it is told that there is one."""
        if self._label is None:
            return Answer((Said(),))
        value = json.loads(body)
        for step in self._label:
            value = value[int(step)] if isinstance(value, list) else value[step]
        if value is None or isinstance(value, list | dict):
            raise ValueError("no label")
        return Answer((Said(label=str(value)),))


def _named(headers: dict[str, str], task: str) -> dict[str, str]:
    return {name: value.replace("{task}", task) for name, value in headers.items()}


def _packed(asked: Asked, picture: Picture) -> tuple[str, bytes]:
    """Media type and bytes of a body."""
    match asked.body:
        case "json":
            value = {asked.field: base64.b64encode(picture.data).decode()}
            return "application/json", json.dumps(value).encode()
        case "template":
            image = base64.b64encode(picture.data).decode()
            return "application/json", asked.template.replace("{image}", image).encode()
        case "multipart":
            before = (
                f"--{_BOUNDARY}\r\nContent-Disposition: form-data; "
                f'name="{asked.field}"; filename="image"\r\nContent-Type: {picture.media}\r\n\r\n'
            )
            after = f"\r\n--{_BOUNDARY}--\r\n"
            body = before.encode() + picture.data + after.encode()
            return f"multipart/form-data; boundary={_BOUNDARY}", body
        case _:
            return picture.media, picture.data
