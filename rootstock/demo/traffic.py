"""Requests of the demonstration: a closed loop of clients over HTTP. Knows no adapter."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

CLIENTS: Final = 16
_TIMEOUT_S: Final = 30.0

Request = tuple[str, int, bytes]  # task, place of the scan, body


@dataclass(frozen=True, slots=True)
class Hit:
    """One request and what came of it."""

    task: str
    scan: int  # its place among the scans
    sent: float  # monotonic seconds
    done: float
    status: int  # 0: no answer
    label: str = ""
    release: int = 0
    path: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was answered with a prediction."""
        return self.status == 200


async def drive(url: str, requests: AsyncIterator[Request], clients: int = CLIENTS) -> list[Hit]:
    """Send (task, scan, body) requests, `clients` at a time, until there are no more."""
    hits: list[Hit] = []

    async def client(session: aiohttp.ClientSession) -> None:
        async for task, scan, body in requests:
            hits.append(await _hit(session, f"{url}/v1/tasks/{task}:predict", task, scan, body))

    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return hits


async def _hit(session: aiohttp.ClientSession, url: str, task: str, scan: int, body: bytes) -> Hit:
    sent = time.monotonic()
    headers = {"Content-Type": "image/png"}
    try:
        async with session.post(url, data=body, headers=headers) as response:
            answer = await response.json(content_type=None)
            done = time.monotonic()
            if response.status != 200:
                return Hit(task, scan, sent, done, response.status)
            best = answer["predictions"][0]["label"]
            release, path = answer["release"], answer["path"]
            return Hit(task, scan, sent, done, 200, best, release, path)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return Hit(task, scan, sent, time.monotonic(), 0)


class Stream:
    """Requests that many clients share: each once, or round and round until `stop`."""

    def __init__(self, requests: Sequence[Request], *, endless: bool = False) -> None:
        self._requests, self._endless = requests, endless
        self._next, self._stopped = 0, False

    def __aiter__(self) -> "Stream":
        """Itself."""
        return self

    async def __anext__(self) -> Request:
        """The next request."""
        if self._stopped or (self._next >= len(self._requests) and not self._endless):
            raise StopAsyncIteration
        self._next += 1
        return self._requests[(self._next - 1) % len(self._requests)]

    def stop(self) -> None:
        """End it for every client."""
        self._stopped = True


async def while_running(
    url: str,
    requests: Sequence[Request],
    act: Callable[[], Awaitable[None]],
    clients: int = CLIENTS,
) -> list[Hit]:
    """Keep sending while `act` runs; every hit."""
    stream = Stream(requests, endless=True)
    driving = asyncio.create_task(drive(url, stream, clients))
    try:
        await act()
    finally:
        stream.stop()
    return await driving
