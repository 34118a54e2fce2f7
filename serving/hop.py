"""The way from a door to engines in other processes; keeps the promise of `Engines`. Knows no Ray.

Everything runs on the door's event loop but what says that it blocks. Groups are carried in a
context of their own: Serve ends what belongs to a request when its client leaves, and a group
belongs to many.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from adapters_store.errors import AdapterError
from serving.bundles import bundles
from serving.cards import Cards
from serving.errors import ClosingError, ColdError, DeadlineError, EngineLostError, OverloadedError
from serving.groups import Groups
from serving.telemetry import Telemetry
from serving.types import Answer, Card, Sample

log = logging.getLogger(__name__)
T = TypeVar("T")

Outcome = Answer | BaseException

_RETRY_AFTER_S: Final = 1
_SLACK_S: Final = 1.0  # an engine refuses late samples itself; this is for one that hangs
_TRIES: Final = 2  # an engine that dies takes its groups along; a group that kills two is given up
_STATUS_S: Final = 2.0


class Wire(Protocol):
    """To the engines; Ray's side implements it. Any of these may raise EngineLostError."""

    async def compute(self, group: Sequence[Sample], *, patient: bool) -> Sequence[Outcome]:
        """One engine's answers to a group, by the one with the fewest groups.

        Only a patient group waits there for loads; in others `ColdError` comes back at once.
        """
        ...

    async def card(self, digest: str) -> Card:
        """From one engine, which has the adapter verified then."""
        ...

    async def install(self, digest: str, data: bytes, task: str) -> Card:
        """From one engine, which has verified these bytes then."""
        ...

    async def status(self, timeout_s: float) -> Sequence[Mapping[str, Any]]:
        """Of every engine that answers in time."""
        ...


@dataclass(slots=True, eq=False)
class _Job:
    """One sample that waits at the door."""

    sample: Sample
    since: float  # time.monotonic() when it came
    future: "asyncio.Future[Answer]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def left_s(self) -> float:
        """Time left to answer."""
        return self.since + self.sample.budget_s - time.monotonic()

    def end(self, outcome: Outcome) -> None:
        """Tell who waits, if anybody still does."""
        if not self.future.done():
            if isinstance(outcome, BaseException):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)


class Hop:
    """Engines as a door has them."""

    def __init__(
        self,
        wire: Wire,
        telemetry: Telemetry,
        loop: asyncio.AbstractEventLoop,
        *,
        engines: int,
        room: int,
        group_max: int,
        budget_s: float,
        load_s: float,
    ) -> None:
        """Nothing is sent yet.

        Args:
            wire: to the engines.
            telemetry: where groups are counted.
            loop: of the door, on which the wire works.
            engines: how many there should be.
            room: samples that may wait here.
            group_max: forwards in one group.
            budget_s: to answer when none is asked.
            load_s: for one adapter to be loaded and verified.
        """
        self._wire, self._telemetry, self._loop, self._load_s = wire, telemetry, loop, load_s
        # A client may ask for years; an engine that says nothing for so long hangs.
        self._silence_s = budget_s + load_s
        self.cards = Cards(self._ask)
        self.refused, self.refusals = self.cards.refused, self.cards.refusals
        self._groups: Groups[list[_Job]] = Groups(
            room=room, out_max=2 * engines, group_max=group_max
        )
        self.ahead = engines * group_max  # a group for each, to leave when one comes back
        self._taken: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself holds them weakly
        self._closing = self._closed = False

    @property
    def waiting(self) -> int:
        """See `Engines`, as for everything public here."""
        return self._groups.waiting

    def listen(self, taken: Callable[[], None]) -> None:
        """Called on the loop."""
        self._taken = taken

    def known(self, digest: str) -> "Future[Any]":
        """From memory, or from an engine."""
        return self.cards.get(digest)

    async def compute(self, sample: Sample) -> Answer:
        """In the next group."""
        (job,) = self._sent([sample])
        return await job.future

    async def compute_all(self, samples: Sequence[Sample]) -> Sequence[Outcome]:
        """In the next group, as far as it has room."""
        jobs = self._sent(samples)
        return await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)

    def install(self, digest: str, data: bytes, task: str) -> None:
        """Verified by one engine; blocking, so not for the loop's own thread."""
        asked = self._aside(_twice(lambda: self._wire.install(digest, data, task)))
        self.cards.keep(_result(asked, self._load_s))

    async def status(self) -> Sequence[Mapping[str, Any]]:
        """Of every engine that answers in time."""
        return await self._wire.status(_STATUS_S)

    def healthy(self) -> bool:
        """There is no thread here that could hang."""
        return True

    def drain(self) -> None:
        """What waits still goes; nothing more is taken."""
        self._closing = True

    def close(self) -> None:
        """Give up what is still under way."""
        self._loop.call_soon_threadsafe(self._give_up)

    def check(self) -> None:
        """Verify the bookkeeping.

        Raises:
            AssertionError: it is broken.
        """
        self._groups.check()
        self.cards.check()

    def _sent(self, samples: Sequence[Sample]) -> list[_Job]:
        now = time.monotonic()
        jobs = [_Job(sample, now) for sample in samples]
        for positions in bundles(samples):
            bundle = [jobs[i] for i in positions]
            until = now + max(job.sample.budget_s for job in bundle)
            error: Exception | None = None
            if self._closing:
                error = ClosingError()
            elif not self._groups.offer(bundle[0].sample.route.task, bundle, until):
                reason = f"{self._groups.waiting} samples wait already"
                error = OverloadedError(reason, _RETRY_AFTER_S)
            if error is not None:
                for job in bundle:
                    job.end(error)
        self._send()
        return jobs

    def _give_up(self) -> None:
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        self._send()

    def _send(self) -> None:
        """Let go whatever may go."""
        while True:
            taken = self._groups.next(time.monotonic())
            for bundle in taken.late:
                for job in bundle:
                    job.end(DeadlineError(job.sample.budget_s))
            jobs = [job for bundle in taken.batch for job in bundle]
            if jobs and not self._closed:
                self._go(jobs)
            elif jobs:
                self._groups.back()
                for job in jobs:
                    job.end(ClosingError())
            elif not taken.late:
                break
        self._telemetry.set("rootstock_door_samples", self._groups.waiting)
        self._taken()

    def _go(self, jobs: Sequence[_Job], apart: int = 0) -> None:
        """A group leaves; `apart`: forwards that wait for loads, and take no place of a group."""
        task = self._spawn(self._carry(jobs, patient=apart > 0))
        # Not at the end of the coroutine: one that is cancelled early never begins.
        task.add_done_callback(partial(self._returned, jobs, apart), context=contextvars.Context())

    def _returned(
        self, jobs: Sequence[_Job], apart: int, task: "asyncio.Task[Sequence[_Job]]"
    ) -> None:
        """A group is back, or never will be: nobody in it is left without an answer."""
        if apart:
            self._groups.rejoin(apart)
        else:
            self._groups.back()
        cold = () if task.cancelled() or task.exception() else task.result()
        going = set() if self._closed else self._parted(cold)
        lost = ClosingError() if self._closed else EngineLostError("a group was given up")
        for job in jobs:
            if job not in going:
                job.end(lost)
        self._send()

    def _parted(self, cold: Sequence[_Job]) -> set[_Job]:
        """What waits for a load travels again, as far as there is room."""
        going: list[_Job] = []
        apart = 0
        for positions in bundles([job.sample for job in cold]):
            bundle = [cold[i] for i in positions]
            if self._groups.part():
                going, apart = going + bundle, apart + 1
                continue
            for job in bundle:
                job.end(
                    OverloadedError(f"{self._groups.apart} samples wait for loads", _RETRY_AFTER_S)
                )
        if going:
            self._go(going, apart)
        return set(going)

    async def _carry(self, jobs: Sequence[_Job], *, patient: bool) -> Sequence[_Job]:
        """A group, there and back; gives those that have to be loaded first."""
        try:
            return self._told(await self._tried(jobs, patient=patient))
        except Exception as error:
            if not isinstance(error, EngineLostError):
                log.exception("a group failed", extra={"samples": len(jobs)})
            for job in jobs:
                job.end(error)
            return ()

    def _told(self, outcomes: Sequence[tuple[_Job, Outcome]]) -> list[_Job]:
        """Tell each what came of it; those that have to be loaded first are given back."""
        cold = []
        for job, outcome in outcomes:
            if isinstance(outcome, ColdError):
                if not job.future.done():
                    cold.append(job)
                continue
            if isinstance(outcome, AdapterError):
                # One engine's word.
                self.cards.denied(job.sample.route.digest, outcome)
            job.end(outcome)
        return cold

    async def _tried(self, jobs: Sequence[_Job], *, patient: bool) -> list[tuple[_Job, Outcome]]:
        """Sent, and sent once more when its engine died over it.

        Raises:
            EngineLostError: twice.
        """
        late: list[tuple[_Job, Outcome]] = []
        for attempt in range(1, _TRIES + 1):
            left = {job: job.left_s for job in jobs if not job.future.done()}
            late = [(j, DeadlineError(j.sample.budget_s)) for j, s in left.items() if s <= 0]
            going = {job: s for job, s in left.items() if s > 0}
            if not going:
                break
            try:
                most_s = min(max(going.values()), self._silence_s)
                async with asyncio.timeout(most_s + _SLACK_S):
                    return late + await self._answered(going, patient=patient)
            except TimeoutError:
                return [(job, _unanswered(job)) for job in left]
            except EngineLostError as error:
                log.warning("an engine was lost", extra={"reason": str(error), "try": attempt})
                if attempt == _TRIES:
                    raise
                self._telemetry.count("rootstock_group_retries")
        return late

    async def _answered(
        self, going: Mapping[_Job, float], *, patient: bool
    ) -> list[tuple[_Job, Outcome]]:
        left = time.monotonic()
        self._telemetry.observe("rootstock_group_samples", len(going))
        group = [replace(job.sample, budget_s=budget_s) for job, budget_s in going.items()]
        outcomes = await self._wire.compute(group, patient=patient)
        return [
            (
                job,
                o
                if isinstance(o, BaseException)
                else o.after_waiting(o.queue_s + left - job.since),
            )
            for job, o in zip(going, outcomes, strict=True)
        ]

    def _ask(self, digest: str) -> "Future[Card]":
        async def asked() -> Card:
            try:
                async with asyncio.timeout(self._load_s):
                    return await _twice(lambda: self._wire.card(digest))
            except TimeoutError:
                raise EngineLostError("no engine had the adapter in time") from None

        return self._aside(asked())

    def _aside(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin something on the loop that belongs to no request, from any thread."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def begin() -> None:
            self._spawn(work).add_done_callback(partial(_handed_on, future))

        self._loop.call_soon_threadsafe(begin)
        return future

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = self._loop.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _twice(ask: Callable[[], Awaitable[T]]) -> T:
    """Asked again, of another engine, when the first did not live to answer."""
    try:
        return await ask()
    except EngineLostError:
        return await ask()


def _unanswered(job: _Job) -> Exception:
    """What is said of a sample whose engine said nothing in time."""
    if job.left_s > 0:
        return EngineLostError("an engine said nothing for too long")
    return DeadlineError(job.sample.budget_s)


def _handed_on(future: "Future[T]", task: "asyncio.Task[T]") -> None:
    if task.cancelled():
        future.set_exception(ClosingError())
    elif error := task.exception():
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _result(asked: "Future[T]", timeout_s: float) -> T:
    try:
        return asked.result(timeout_s)
    except LateError:
        raise EngineLostError("no engine had the adapter in time") from None
