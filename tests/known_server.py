"""An HTTP server that does exactly what it is told, and writes down when: loads are held to it.

Its work is virtual: an answer's instant is computed when its request arrives, so a busy machine
changes little. Knows the paths of our API, of the Open Inference Protocol, and a plain one.
"""

import asyncio
import json
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httptools


@dataclass
class Behaviour:
    """What it does to requests for predictions."""

    delay_s: float = 0.0  # of every answer
    rate: float = 0.0  # it answers so many a second, in order; 0: any
    queue_max: int = 10**9  # that may wait; more are refused
    stall: tuple[int, float] | None = None  # from which request on, and for how many seconds
    refused: int = 0  # every so manieth with 503
    wrong: int = 0  # every so manieth with another label
    dropped: int = 0  # every so manieth connection is closed without an answer
    garbage: int = 0  # every so manieth answer is none
    silent: bool = False  # never answers
    tasks: tuple[str, ...] = ("a", "b")


@dataclass
class Served:
    """One request as the server saw it."""

    path: str
    at: float  # of time.monotonic, when its last byte had come
    done: float  # when its answer left; 0: never
    status: int
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class KnownServer:
    """Runs on a thread of its own while its context lasts."""

    behaviour: Behaviour = field(default_factory=Behaviour)
    served: list[Served] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    def __enter__(self) -> Self:
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._up.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)

    @property
    def predictions(self) -> list[Served]:
        """Requests for predictions alone."""
        return [one for one in self.served if "predict" in one.path or "infer" in one.path]

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._free = self._stalled = 0.0
        self._counts: Counter[str] = Counter()
        self._transports: list[asyncio.Transport] = []
        server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._up.set()
        await self._ended.wait()
        server.close()
        for transport in self._transports:
            transport.abort()
        await asyncio.sleep(0)  # what was aborted is let go of

    def greet(self, transport: asyncio.Transport) -> None:
        """A connection was made."""
        self.connections += 1
        self._transports.append(transport)

    def take(self, connection: "_Connection", one: Served) -> None:
        """Decide what becomes of a request, and when."""
        self.served.append(one)
        kind = urlsplit(one.path).path
        if "predict" not in kind and "infer" not in kind:
            connection.answer(one, 200, *self._page(kind))
            return
        self._counts["all"] += 1
        if self.behaviour.silent:
            return
        if self.behaviour.dropped and self._counts["all"] % self.behaviour.dropped == 0:
            connection.transport.abort()
            return
        self._predict(connection, one)

    def _predict(self, connection: "_Connection", one: Served) -> None:
        b = self.behaviour
        due = one.at + b.delay_s
        waiting = max(self._free - one.at, 0.0) * b.rate
        if (b.refused and self._counts["all"] % b.refused == 0) or waiting > b.queue_max:
            problem = json.dumps({"status": 503, "detail": "full"}).encode()
            connection.answer(one, 503, problem, {"Retry-After": "1"})
            return
        if b.rate:
            self._free = max(self._free, one.at) + 1.0 / b.rate
            due = max(due, self._free)
        if b.stall is not None and self._counts["all"] == b.stall[0]:
            self._stalled = one.at + b.stall[1]
        due = max(due, self._stalled)
        status, body, headers = self._answer(one)
        left = due - time.monotonic()
        if left > 0:
            self._loop.call_later(left, connection.answer, one, status, body, headers)
        else:
            connection.answer(one, status, body, headers)

    def _page(self, path: str) -> tuple[bytes, dict[str, str]]:
        if path == "/metrics":
            n = self._counts["all"]
            text = (
                f'rootstock_requests_total{{replica="x",outcome="ok"}} {n}\n'
                f'rootstock_request_seconds_bucket{{replica="x",le="0.1"}} {n}\n'
                f'rootstock_request_seconds_bucket{{replica="x",le="+Inf"}} {n}\n'
                f'rootstock_request_seconds_sum{{replica="x"}} {n * 0.01}\n'
            )
            return text.encode(), {}
        if path == "/v2/repository/index":
            rows: Any = [{"name": task, "state": "READY"} for task in self.behaviour.tasks]
        else:
            items = [{"task": task, "active": 1} for task in self.behaviour.tasks]
            rows = {"items": items, "next": None}
        return json.dumps(rows).encode(), {}

    def _answer(self, one: Served) -> tuple[int, bytes, dict[str, str]]:
        b, parts = self.behaviour, urlsplit(one.path)
        count = self._counts["all"]
        if b.garbage and count % b.garbage == 0:
            return 200, b"<html>", {}
        label = "dog" if b.wrong and count % b.wrong == 0 else "cat"
        timing = {"Server-Timing": "decode;dur=1.5, compute;dur=2.5"}
        if parts.path.startswith("/v2"):
            data = struct.pack("<I", len(label)) + label.encode()
            size = {"binary_data_size": len(data)}
            output = {"name": "label", "datatype": "BYTES", "shape": [1], "parameters": size}
            head = json.dumps({"outputs": [output]}).encode()
            return 200, head + data, {"Inference-Header-Content-Length": str(len(head))}
        if parts.path == "/v1/predict":
            results = [self._said(task, label) for task in parse_qs(parts.query)["task"]]
            return 200, json.dumps({"results": results}).encode(), timing
        if not parts.path.startswith("/v1"):
            return 200, json.dumps({"answers": [{"label": label}]}).encode(), {}
        task = parts.path.removeprefix("/v1/tasks/").removesuffix(":predict")
        said = self._said(task, label)
        status = 400 if one.body.startswith(b"this is no picture") else said["status"]
        headers = {"X-Adapter-Digest": f"digest of {task}", "X-Generation": "1", **timing}
        return status, json.dumps(said).encode(), headers if status == 200 else {}

    def _said(self, task: str, label: str) -> dict[str, Any]:
        if task not in self.behaviour.tasks:
            return {"status": 404, "detail": f"no task {task}"}
        best = [{"label": label, "probability": 0.9}, {"label": "x", "probability": 0.1}]
        said = {"task": task, "release": 1, "digest": f"digest of {task}"}
        return {"status": 200, **said, "predictions": best}


class _Connection(asyncio.Protocol):
    def __init__(self, server: KnownServer) -> None:
        self._server, self._parser = server, httptools.HttpRequestParser(self)
        self._clear()

    def _clear(self) -> None:
        self._path, self._body, self._headers = b"", [], {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._server.greet(transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        one = Served(self._path.decode(), time.monotonic(), 0.0, 0, self._headers, body)
        self._clear()
        self._server.take(self, one)

    def answer(self, one: Served, status: int, body: bytes, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} OK", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        one.done, one.status = time.monotonic(), status
        if not self.transport.is_closing():
            self.transport.write("\r\n".join((*lines, "", "")).encode() + body)
