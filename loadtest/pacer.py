"""Sends the rows of a plan: when they are due, whatever became of others, or in a closed loop.

Of one client process. Knows time and the pool; what an answer is worth the judge says.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from loadtest.hits import Recorder
from loadtest.judge import Judge
from loadtest.outcomes import ANSWERED, Outcome, Wrong
from loadtest.plan import Plan
from loadtest.promises import Mark
from loadtest.targets.protocol import Target
from loadtest.timing import retry_after, stages_of
from loadtest.wire import Origin, Pool, Reply

_NAN: Final = float("nan")
_TIMER_S: Final = 0.001  # what timers of the event loop can tell apart
_AT_ONCE: Final = 32  # sent before answers are read again
_OVERTIME_S: Final = 1.0  # after the end; what is not sent by then stays unsent
_PAUSE_S: Final = 0.05  # of a closed loop's client that got no answer
_LEAST_S: Final = 0.1  # of a run that is stopped at once


class Flight(NamedTuple):
    """A request on its way."""

    row: int
    scheduled: float
    sent: float
    mark: Mark


@dataclass(slots=True)
class Tally:
    """What progress shows, since the last look."""

    sent: int = 0
    outcomes: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    lag_ms: float = 0.0


class Pacer:
    """Rows number, number + of, number + 2 × of … of a plan."""

    def __init__(
        self,
        plan: Plan,
        target: Target,
        judge: Judge,
        origin: Origin,
        *,
        number: int,
        of: int,
        in_flight_max: int,
        timeout_s: float,
    ) -> None:
        self._tasks, self._image = plan.tasks.tolist(), plan.image.tolist()
        self._deadline, self._want = plan.deadline_ms.tolist(), plan.want.tolist()
        self._at = plan.at[number::of].tolist()
        self._number, self._of, self._rows = number, of, len(plan)
        self._target, self._judge = target, judge
        self._in_flight_max = in_flight_max
        self._loop = asyncio.get_running_loop()
        self.pool = Pool(origin, timeout_s, self._done)
        self.recorder, self.tally = Recorder(), Tally()
        self.cpu = 0.0  # share of a core that sending took
        self._start = self._until = 0.0
        self._next = 0
        self._stopped = False
        self._sent_all = asyncio.Event()
        self._landed = asyncio.Event()
        self._after: Callable[[Outcome], None] | None = None

    async def run_open(self, start: float, duration_s: float) -> None:
        """Send every row at its instant; returns when all are answered or given up."""
        self._start, self._until = start, duration_s + _OVERTIME_S
        self._loop.call_later(max(start - time.monotonic(), 0.0), self._tick)
        await self._all_sent()
        now = self._now()
        while self._next < len(self._at) and self._at[self._next] <= min(now, self._until):
            self._note_unsent(Outcome.UNSENT)
            self._next += 1
        await self._all_landed()

    async def run_closed(
        self, start: float, duration_s: float, clients: int, think_s: float
    ) -> None:
        """So many clients in a circle until the time is over."""
        self._start, self._until = start, duration_s

        def again() -> None:
            now = self._now()
            if self._stopped or now >= self._until:
                self._sent_all.set()
            elif now < 0.0:  # timers may go off a little early: nothing is sent before the start
                self._loop.call_later(_TIMER_S, again)
            else:
                self._fire(self._next, now)
                self._next += 1

        def after(outcome: Outcome) -> None:
            wait_s = think_s if outcome in ANSWERED else max(think_s, _PAUSE_S)
            if wait_s:
                self._loop.call_later(wait_s, again)
            else:
                self._loop.call_soon(again)

        self._after = after
        for client in range(clients):
            stagger_s = think_s * client / clients
            self._loop.call_later(max(start - time.monotonic(), 0.0) + stagger_s, again)
        await self._all_sent()
        await self._all_landed()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True
        self._sent_all.set()

    def promise(self, task: int, allowed: list[int], generation: int) -> None:
        """From now on the task is to be answered by these releases."""
        self._judge.promises.tell(task, allowed, generation)

    def fresh_tally(self) -> Tally:
        """What was counted since the last call."""
        tally, self.tally = self.tally, Tally()
        return tally

    def _now(self) -> float:
        return time.monotonic() - self._start

    async def _all_sent(self) -> None:
        spent = time.process_time()
        await self._sent_all.wait()
        # Waiting for the last answers costs nothing, and would make a busy client look idle.
        self.cpu = (time.process_time() - spent) / max(self._now(), _LEAST_S)

    async def _all_landed(self) -> None:
        while self.pool.in_flight:
            self._landed.clear()
            await self._landed.wait()

    def _tick(self) -> None:
        """Send what is due, and come back for the next."""
        at, count = self._at, len(self._at)
        now = self._now()
        for _ in range(_AT_ONCE):
            if self._next >= count or self._stopped or now > self._until:
                self._sent_all.set()
                return
            due = at[self._next]
            if due > now:
                self._loop.call_later(max(due - now, _TIMER_S), self._tick)
                return
            self._fire(self._next, due)
            self._next += 1
            now = self._now()
        self._loop.call_soon(self._tick)

    def _fire(self, place: int, due: float) -> None:
        if self.pool.in_flight >= self._in_flight_max:
            self._note_unsent(Outcome.DROPPED, due)
            return
        row = self._number + place * self._of
        at = row % self._rows
        tasks = self._tasks[at]
        mark = self._judge.promises.mark(tasks)
        parts = self._target.request(tasks, self._image[at], self._deadline[at], mark.generation)
        sent = self._now()
        self.tally.sent += 1
        self.tally.lag_ms = max(self.tally.lag_ms, 1000 * (sent - due))
        self.pool.send(Flight(row, due, sent, mark), parts)

    def _done(self, flight: Flight, reply: Reply | Outcome) -> None:
        done = self._now()
        if isinstance(reply, Reply):
            at = flight.row % self._rows
            outcome, wrong = self._judge.verdict(
                self._tasks[at], self._image[at], self._want[at], flight.mark, reply
            )
            status, size = reply.status, len(reply.body)
            wait_s = retry_after(reply.headers)
        else:
            outcome, wrong = reply, Wrong.NO
            status, size, wait_s = 0, 0, _NAN
        self.recorder.note(
            flight.row, flight.scheduled, flight.sent, done, status, outcome, wrong, size, wait_s
        )
        if status == 200 and isinstance(reply, Reply):
            self.recorder.note_stages(stages_of(reply.headers))
        self.tally.outcomes[outcome] += 1
        if outcome == Outcome.OK:  # refusals are quick: of both a median says nothing
            self.tally.latencies_ms.append(1000 * (done - flight.scheduled))
        self._landed.set()
        if self._after is not None:
            self._after(outcome)

    def _note_unsent(self, outcome: Outcome, due: float | None = None) -> None:
        due = self._at[self._next] if due is None else due
        row = self._number + self._next * self._of
        self.recorder.note(row, due, _NAN, _NAN, 0, outcome, Wrong.NO, 0, _NAN)
        self.tally.outcomes[outcome] += 1
        if self._after is not None:
            self._after(outcome)


def dealt(total: int, number: int, of: int) -> int:
    """Of a total the part of one process; parts differ by one at most."""
    return int(np.ceil((total - number) / of))
