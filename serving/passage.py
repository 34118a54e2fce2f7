"""What every call that wants a prediction passes, whatever its protocol. Knows HTTP, no body.

Token, time, generation and task come first, then a place: a door that is full, or at which the
call would wait too long, refuses before anything is loaded and before a byte of the body is read.
No place is held while an adapter is loaded. However the call ends, it is counted here.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from serving import access
from serving.auth import Gate
from serving.door import Door
from serving.errors import DeadlineError, OverloadedError, RequestInvalidError, TaskBusyError
from serving.places import Places
from serving.problems import status_of
from serving.types import Classified, Fleet

_UNKNOWN: Final = "__unknown__"
_GONE: Final = "gone"  # the client left before its answer


@dataclass(frozen=True, slots=True)
class Visit:
    """A call that was let in."""

    until: float  # time.monotonic() by which it has to be answered
    request_id: str
    key: str | None  # decides a split

    @property
    def left_s(self) -> float:
        """Time left to answer."""
        return self.until - time.monotonic()


class Passage:
    """The one way in, of one replica; it belongs to the event loop."""

    def __init__(self, replica: Door, fleet: Fleet, gate: Gate) -> None:
        self._replica, self._fleet, self._gate = replica, fleet, gate
        self._telemetry = replica.telemetry
        self._places = Places(replica.settings.inside_max)
        self._inside = 0

    @asynccontextmanager
    async def enter(self, request: Request, ref: str) -> AsyncIterator[Visit]:
        """Let a call for `task`, `task@3` or `task@alias` in, and see it out.

        Raises:
            CatalogError, ServingError, StoreError: it is not let in.
            DeadlineError: it was not answered in time.
        """
        async with self._visited(request, (ref,)) as visit:
            # An unknown task is answered before the body.
            task = self._replica.named(ref, visit.key)
            with self._place(task, visit):
                pass  # a door that is full loads nothing
            await self._replica.locate(ref, visit.key)  # loads take longer than bodies
            with self._place(task, visit):
                yield visit

    @asynccontextmanager
    async def enter_for_all(
        self, request: Request, refs: Sequence[str]
    ) -> AsyncIterator[tuple[Visit, bool]]:
        """The same for a call for several tasks, each with an answer of its own.

        Besides the visit it gives whether any of them can be answered.
        """
        most = self._replica.settings.tasks_max
        async with self._visited(request, refs[:most]) as visit:
            if len(refs) > most:  # locating would load every one of them
                raise RequestInvalidError(f"at most {most} tasks in one call")
            tasks = self._replica.follower.view.catalog.tasks
            named = (ref.partition("@")[0] for ref in refs)
            first = next((name for name in named if name in tasks), None)
            if first is None:
                yield visit, False
                return
            with self._place(first, visit):
                pass
            located = (self._replica.locate(ref, visit.key) for ref in refs)
            found = await asyncio.gather(*located, return_exceptions=True)
            with self._place(first, visit):
                yield visit, any(not isinstance(one, BaseException) for one in found)

    @asynccontextmanager
    async def _visited(self, request: Request, refs: Sequence[str]) -> AsyncIterator[Visit]:
        """Token, time and generation at the beginning, counting at the end."""
        began = time.perf_counter()
        outcome = "ok"
        self._count(1)
        try:
            self._gate.check("predict", request.headers.get("authorization"))
            most_s = self._replica.settings.budget_s
            asked_s = number(request, "x-request-deadline-ms", most_s * 1000) / 1000
            budget_s = min(asked_s, most_s)  # nobody keeps a place for longer
            try:
                async with asyncio.timeout(budget_s):
                    yield await self._admitted(request, time.monotonic() + budget_s)
            except TimeoutError:
                raise DeadlineError(budget_s) from None
        except (asyncio.CancelledError, ClientDisconnect):
            outcome = _GONE
            raise
        except Exception as error:
            status, outcome = status_of(error)
            if status in (429, 503, 504):
                self._telemetry.count("rootstock_refusals", reason=outcome)
            raise
        finally:
            self._count(-1)
            tasks = self._replica.follower.view.catalog.tasks  # nobody may invent labels
            for name in (ref.partition("@")[0] for ref in refs):
                task = name if name in tasks else _UNKNOWN
                self._telemetry.count("rootstock_requests", task=task, outcome=outcome)
            self._telemetry.observe(
                "rootstock_request_seconds", time.perf_counter() - began, outcome=outcome
            )

    async def _admitted(self, request: Request, until: float) -> Visit:
        wanted = int(number(request, "x-min-generation", 0, whole=True))
        await self._replica.ensure(wanted, min((until - time.monotonic()) / 2, 2.0))
        request_id = self._fleet.request_id() or request.headers.get("x-request-id", "")
        key = request.headers.get("x-route-key") or request_id or None
        return Visit(until, request_id, key)

    @contextmanager
    def _place(self, task: str, visit: Visit) -> Iterator[None]:
        """A place inside, for as long as the call takes; refused before its body is read.

        Raises:
            OverloadedError: there is none, or it would wait too long.
            TaskBusyError: the same, and it is this task that others have to wait for.
            TimeoutError: its time is over.
        """
        if visit.left_s <= 0:  # what never waits is never interrupted
            raise TimeoutError
        try:
            with self._taken(task):
                if error := self._replica.turns.refusal(task, visit.until):
                    raise error
                yield
        except OverloadedError as error:
            if self._places.crowds(task):
                raise TaskBusyError(task, error.retry_after_s) from None
            raise

    @contextmanager
    def _taken(self, task: str) -> Iterator[None]:
        if not self._places.take(task):
            after_s = self._replica.turns.retry_after_s()
            raise OverloadedError("too many calls are inside already", after_s)
        try:
            yield
        finally:
            self._places.give(task)

    def _count(self, change: int) -> None:
        self._inside += change
        self._telemetry.set("rootstock_in_flight", self._inside)

    def note(self, done: Classified, encode_s: float) -> None:
        """Count the stages of one image's answer."""
        access.note_answer(done)
        for stage, seconds in (*_stages(done), ("encode", encode_s)):
            self._telemetry.observe("rootstock_stage_seconds", seconds, stage=stage)

    def headers(self, done: Classified | None) -> dict[str, str]:
        """What every answer says beside its body; `done` is one image of it, if any worked."""
        if done is None:
            return {"X-Generation": str(self._replica.generation)}
        timing = ", ".join(f"{name};dur={s * 1000:.2f}" for name, s in _stages(done))
        return {
            "X-Generation": str(done.route.generation),
            "X-Adapter-Digest": done.route.digest,
            "Server-Timing": timing,
        }


def odds(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of one image's labels: the softmax of its logits [labels]."""
    exact = logits.astype(np.float64)
    powers = np.exp(exact - exact.max())
    probabilities: NDArray[np.float64] = powers / powers.sum()
    return probabilities


def best(of: NDArray[np.float64], count: int) -> list[int]:
    """The labels with the highest odds, the first of equals first."""
    return [int(i) for i in np.argsort(-of, kind="stable")[:count]]


def number(request: Request, header: str, default: float, *, whole: bool = False) -> float:
    """A header that holds a positive number, or a whole one.

    Raises:
        RequestInvalidError: it holds something else.
    """
    text = request.headers.get(header)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 2**53 or (whole and not value.is_integer()):
        raise RequestInvalidError(f"{header} is not a positive number")
    return value


def _stages(done: Classified) -> tuple[tuple[str, float], ...]:
    return (
        ("decode", done.decode_s),
        ("queue", done.answer.queue_s),
        ("compute", done.answer.compute_s),
    )
