"""An HTTP/1.1 client on sockets, for speed: many connections, one request at a time on each.

Knows bytes, statuses and headers. Sends nothing twice: a connection that dies takes its request
with it, and the caller is told.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

from loadtest.errors import ScenarioError
from loadtest.outcomes import Outcome

_PATIENCE_EVERY_S: Final = 0.1
_FRAMES: Final = (b"content-length", b"transfer-encoding")


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom to connect to."""

    host: str
    port: int
    tls: bool
    path: str  # in front of every path, without a slash at its end

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def origin_of(url: str) -> Origin:
    """Host, port and path of a URL.

    Raises:
        ScenarioError: it is none of http or https, or says more than that.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise ScenarioError(url, (str(error),)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ScenarioError(url, ("a URL begins with http:// or https:// and names a host",))
    if "@" in parts.netloc:  # and so it is not repeated
        fault = "no names and passwords in it: give a token, or target.headers"
        raise ScenarioError("the URL", (fault,))
    if parts.query or parts.fragment or any(c.isspace() for c in url):
        raise ScenarioError(url, ("it ends with its path: no ?, no # and no spaces",))
    tls = parts.scheme == "https"
    return Origin(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"))


@dataclass(slots=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[bytes, bytes]  # names in lower case
    body: bytes


# Called once for a request: with its reply, or with how it failed.
Done = Callable[[Any, Reply | Outcome], None]


class Connection(asyncio.Protocol):
    """One socket. It belongs to a pool, and holds at most one request."""

    __slots__ = ("_body", "_headed", "_headers", "_parser", "_pool", "began", "token", "transport")

    def __init__(self, pool: "Pool", token: Any, began: float) -> None:
        self._pool = pool
        self.transport: asyncio.Transport | None = None
        self.token: Any = token
        self.began = began
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._headed = False  # all headers have come
        self._body: list[bytes] = []

    def send(self, token: Any, parts: Sequence[bytes]) -> None:
        """Write a request whose answer belongs to `token`."""
        assert self.transport is not None
        self.token, self.began = token, time.monotonic()
        self.transport.writelines(parts)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a fault of ours, and no answer: nobody may go on as if it had been counted
        except httptools.HttpParserError:
            self._pool.lost(self, Outcome.BAD_BODY)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        framed = any(name in self._headers for name in _FRAMES)
        if exc is None and self._headed and not framed:
            self._deliver(keep=False)  # such an answer ends with its connection
        self._pool.lost(self, Outcome.DISCONNECTED)

    def close(self) -> None:
        """Let go of the socket at once."""
        if self.transport is not None:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        before = self._headers.get(name)
        self._headers[name] = value if before is None else before + b", " + value

    def on_headers_complete(self) -> None:
        self._headed = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self._deliver(keep=self._parser.should_keep_alive())
        else:
            self._headers, self._headed = {}, False

    def _deliver(self, *, keep: bool) -> None:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        reply = Reply(self._parser.get_status_code(), self._headers, body)
        self._headers, self._headed, self._body = {}, False, []
        if not keep:
            self._reset()
        self._pool.answered(self, reply, keep=keep)


class Pool:
    """Connections to one origin; as many as there are requests in flight. Of one event loop."""

    def __init__(self, origin: Origin, timeout_s: float, done: Done) -> None:
        self._origin, self._timeout_s, self._done = origin, timeout_s, done
        self._loop = asyncio.get_running_loop()
        self._tls = ssl.create_default_context() if origin.tls else None
        self._idle: list[Connection] = []
        self._busy: dict[Connection, None] = {}
        self._opening: dict[asyncio.Task[None], Any] = {}
        self.opened = 0
        self._watch = self._loop.call_later(_PATIENCE_EVERY_S, self._look)

    @property
    def in_flight(self) -> int:
        """Requests that have no answer yet."""
        return len(self._busy) + len(self._opening)

    def send(self, token: Any, parts: Sequence[bytes]) -> None:
        """Send on a connection that is free, or on a new one."""
        if self._idle:
            connection = self._idle.pop()
            self._busy[connection] = None
            connection.send(token, parts)
            return
        task = self._loop.create_task(self._open(token, parts))
        self._opening[task] = token
        task.add_done_callback(self._opened)

    async def warm(self, count: int) -> None:
        """Open connections before they are needed; those that fail are left to fail later."""

        async def one() -> None:
            with contextlib.suppress(OSError, TimeoutError):
                connection = await self._connect(None)
                self._idle.append(connection)

        await asyncio.gather(*(one() for _ in range(count)))

    def abandon(self) -> None:
        """Give up everything that is in flight."""
        for connection in list(self._busy):
            self.lost(connection, Outcome.ABANDONED)
            connection.close()
        for task, token in list(self._opening.items()):
            del self._opening[task]
            task.cancel()
            self._done(token, Outcome.ABANDONED)

    def close(self) -> None:
        """Close every connection; nothing is in flight any more."""
        self._watch.cancel()
        self.abandon()
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def answered(self, connection: Connection, reply: Reply, *, keep: bool) -> None:
        """Called by a connection."""
        if connection not in self._busy:
            connection.close()  # nobody asked
            return
        del self._busy[connection]
        token, connection.token = connection.token, None
        if keep:
            self._idle.append(connection)
        else:
            connection.close()
        self._done(token, reply)

    def lost(self, connection: Connection, outcome: Outcome) -> None:
        """Called by a connection that is closed; whether or not it was busy."""
        if connection in self._busy:
            del self._busy[connection]
            self._done(connection.token, outcome)
        else:
            with contextlib.suppress(ValueError):
                self._idle.remove(connection)

    async def _connect(self, token: Any) -> Connection:
        origin = self._origin
        began = time.monotonic()
        async with asyncio.timeout(self._timeout_s):
            _, connection = await self._loop.create_connection(
                lambda: Connection(self, token, began), origin.host, origin.port, ssl=self._tls
            )
        self.opened += 1
        return connection

    async def _open(self, token: Any, parts: Sequence[bytes]) -> None:
        began = time.monotonic()
        connection = await self._connect(token)
        self._busy[connection] = None
        connection.send(token, parts)
        connection.began = began  # connecting is part of the waiting

    def _opened(self, task: asyncio.Task[None]) -> None:
        if task not in self._opening:
            return  # abandoned
        token = self._opening.pop(task)
        error = task.exception()
        if error is None:
            return
        if isinstance(error, TimeoutError):
            self._done(token, Outcome.TIMEOUT)
        elif isinstance(error, ssl.SSLError | ssl.CertificateError):
            self._done(token, Outcome.TLS)
        else:
            self._done(token, Outcome.CONNECT)

    def _look(self) -> None:
        """Whose time is over?"""
        before = time.monotonic() - self._timeout_s
        for connection in [c for c in self._busy if c.began < before]:
            self.lost(connection, Outcome.TIMEOUT)
            connection.close()
        self._watch = self._loop.call_later(_PATIENCE_EVERY_S, self._look)


async def ask(
    origin: Origin,
    method: str,
    path: str,
    *,
    headers: dict[str, str],
    body: bytes = b"",
    timeout_s: float = 30.0,
) -> Reply | Outcome:
    """One request on a connection of its own."""
    answer: asyncio.Future[Reply | Outcome] = asyncio.get_running_loop().create_future()

    def done(_: Any, outcome: Reply | Outcome) -> None:
        if not answer.done():
            answer.set_result(outcome)

    pool = Pool(origin, timeout_s, done)
    pool.send(None, (head(origin, method, path, headers, len(body)), body))
    try:
        return await answer
    finally:
        pool.close()


def head(origin: Origin, method: str, path: str, headers: dict[str, str], length: int) -> bytes:
    """The lines of a request before its body."""
    first = f"{method} {origin.path}{path} HTTP/1.1\r\n"
    return f"{first}{header_lines(origin, headers)}Content-Length: {length}\r\n\r\n".encode()


def header_lines(origin: Origin, headers: Mapping[str, str]) -> str:
    """These headers and the host, unless they name another."""
    host = {} if any(name.lower() == "host" for name in headers) else {"Host": origin.authority}
    return "".join(f"{name}: {value}\r\n" for name, value in {**host, **headers}.items())
