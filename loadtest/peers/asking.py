"""Asks a server for answers whose truth is known, before it is loaded. Knows one language a system.

What an answer says of the dtype that it was computed in is kept: a peer left in another one is
not measured.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadtest.discovery import words
from loadtest.outcomes import Outcome
from loadtest.peers.errors import PeerError
from loadtest.peers.server import Server
from loadtest.peers.workplace import Workplace
from loadtest.scenario import Target as Asked
from loadtest.targets.protocol import UNREADABLE
from loadtest.targets.table import target as make_target
from loadtest.wire import Pool, Reply, ask, origin_of

_AT_ONCE: Final = 4
_AGAIN_S: Final = 0.02
_WRONG_MAX: Final = 25  # answers in a row: then it is not going to be right
_REQUEST_S: Final = 60.0

Pair = tuple[str, str]  # task, picture


@dataclass(frozen=True, slots=True)
class Told:
    """What a server said to one request."""

    label: str | None
    dtype: str | None
    status: int
    why: str  # there is no label


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many answers of all were the truth, and the dtypes that were told."""

    right: int
    asked: int
    dtypes: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of right ones."""
        return self.right / self.asked if self.asked else 0.0


class Asker:
    """Of one server. A few requests at a time, on connections that are kept."""

    def __init__(self, server: Server, place: Workplace) -> None:
        self._server, self._truth = server, place.truth
        asked = asked_of(server)
        self._target = make_target(asked, place.names, place.pictures)
        self._task = {name: i for i, name in enumerate(place.names)}
        self._picture = {picture.name: i for i, picture in enumerate(place.pictures)}
        self._ours = server.system.ours
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._pool = Pool(origin_of(asked.url), _REQUEST_S, self._done)

    def close(self) -> None:
        """Close connections."""
        self._pool.close()

    async def ask(self, pair: Pair) -> Told:
        """Once."""
        async with self._gate:
            answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
            request = self._target.request(
                [self._task[pair[0]]], self._picture[pair[1]], 0.0, min_generation=0
            )
            self._pool.send(answer, request)
            return await answer

    async def until_right(self, task: str, deadline: float) -> str | None:
        """Ask for a task's surest picture until the answer is right; what dtype it told.

        Raises:
            PeerError: it is not right in time, or the server ended.
        """
        picture, label = next(iter(self._truth[task].items()))
        wrong, why = 0, "nobody answered"
        while time.monotonic() < deadline:
            told = await self.ask((task, picture))
            if told.label == label:
                return told.dtype
            if told.label is not None:
                wrong, why = wrong + 1, f"{task}: {told.label!r} where {label!r} is right"
                if wrong == _WRONG_MAX:
                    raise PeerError(self._server.system.name, why)
            elif told.status:
                why = told.why
            await asyncio.to_thread(self._server.check)
            await asyncio.sleep(_AGAIN_S)
        said = self._server.last_words()
        raise PeerError(self._server.system.name, f"no right answer in time; {why}; {said}")

    async def every(self, tasks: Sequence[str], deadline: float) -> None:
        """Each task once, until right: the first alone, for the server may still be starting.

        Raises:
            PeerError
        """
        await self.until_right(tasks[0], deadline)
        async with asyncio.TaskGroup() as group:
            for task in tasks[1:]:
                group.create_task(self.until_right(task, deadline))

    async def agreement(self, pairs: Iterable[Pair]) -> Agreement:
        """Of answers to these pairs with the truth."""
        asked = list(pairs)
        told = await asyncio.gather(*map(self.ask, asked))
        right = sum(
            one.label == self._truth[task][picture]
            for one, (task, picture) in zip(told, asked, strict=True)
        )
        dtypes = {one.dtype for one in told if one.dtype is not None}
        if self._ours:
            dtypes = {await self._readyz()}
        return Agreement(right, len(asked), tuple(sorted(dtypes)))

    async def _readyz(self) -> str:
        """Rootstock tells its dtype where it tells that it is ready."""
        reply = await ask(origin_of(self._server.url), "GET", "/readyz", headers={})
        return str(json.loads(reply.body)["dtype"]) if isinstance(reply, Reply) else "unknown"

    def _done(self, answer: "asyncio.Future[Told]", reply: Reply | Outcome) -> None:
        if not answer.done():
            answer.set_result(self._told(reply))

    def _told(self, reply: Reply | Outcome) -> Told:
        if isinstance(reply, Outcome):
            return Told(None, None, 0, reply.name.lower())
        if not 200 <= reply.status < 300:
            return Told(None, None, reply.status, words(reply))
        try:
            label = self._target.read(reply.headers, reply.body).said[0].label
            return Told(label, None if self._ours else _dtype(reply.body), reply.status, "")
        except UNREADABLE:
            return Told(None, None, reply.status, f"it cannot be read: {words(reply)}")


def asked_of(server: Server) -> Asked:
    """How a system is asked, as a scenario has it."""
    kind = {"kind": "plain", "metrics": "", "url": server.url}
    return Asked.model_validate({**kind, **server.system.target})


def spread(place: Workplace, tasks: Sequence[str], most: int) -> list[Pair]:
    """At most so many pairs of task and picture, evenly over all that are known."""
    pairs = [(task, picture) for task in tasks for picture in place.truth[task]]
    if len(pairs) <= most:
        return pairs
    return [pairs[i * len(pairs) // most] for i in range(most)]


def _dtype(body: bytes) -> str:
    value: Any = json.loads(body)
    return str((value[0] if isinstance(value, list) else value)["dtype"])
