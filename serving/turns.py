"""Whose image is decoded next, and who had better not wait. Knows tasks and a clock, no image.

Decoding is most of what a door does, so none is spent on an answer that will not be given. Images
wait here before they are decoded, fair between tasks; a turn is given while fewer are decoded, or
about to be, than the engines want at hand. Who would wait too long, or past the time that his call
has, hears so before: at best when not a byte of his body has been read.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from serving.errors import DeadlineError, OverloadedError
from serving.pace import Pace, Usual, retry_after_s
from serving.places import fits
from serving.queue import FairQueue


class Turns:
    """The line of one door; threads may share it."""

    def __init__(
        self,
        *,
        room: int,
        ahead: int,
        wait_s: float,
        at_hand: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """Nobody waits.

        Args:
            room: images that may wait.
            ahead: images decoded or being decoded, beside those that an engine has taken.
            wait_s: who would wait longer for an engine is refused, unless his turn is the next one
                or fewer than `ahead` are before him, decoded ones included.
            at_hand: how many decoded ones no engine has taken yet.
            clock: in seconds.
            dice: in [0, 1).
        """
        self._room, self._ahead, self._wait_s = room, ahead, wait_s
        self._at_hand, self._clock, self._dice = at_hand, clock, dice
        self._lock = threading.Lock()
        # Who waits, and how many seconds he had when he came.
        self._line: FairQueue[tuple[Future[None], float]] = FairQueue(room)
        self._pace, self._rest = Pace(), Usual()
        self._out = 0  # turns given and not left yet

    @property
    def waiting(self) -> int:
        """Images in line."""
        return len(self._line)

    def refusal(self, task: str, until: float) -> OverloadedError | None:
        """Why an image of this task need not come; None: it may. `until` is on the clock."""
        with self._lock:
            return self._refusal(task, until)

    def retry_after_s(self) -> int:
        """Seconds after which it is worth asking again."""
        with self._lock:
            return self._retry_after_s(self._clock())

    def stand(self, task: str, until: float) -> "Future[None]":
        """Stand in line; the future is done when the turn has come, and `leave` ends that.

        The future raises:
            DeadlineError: there is no longer time enough to answer.

        Raises:
            OverloadedError: it makes no sense to wait.
        """
        turn: Future[None] = Future()
        with self._lock:
            if error := self._refusal(task, until):
                raise error
            if not len(self._line):
                self._pace.rest()
            self._line.offer(task, (turn, until - self._clock()), until)
        self.give()
        return turn

    def leave(self) -> None:
        """A turn is over: the image was decoded, or was none."""
        with self._lock:
            self._out -= 1
        self.give()

    def answered(self, seconds: float) -> None:
        """So long after its turn an image was answered, or would have been."""
        with self._lock:
            self._rest.note(seconds, self._clock())

    def give_up(self, turn: "Future[None]") -> None:
        """Whoever stood in line has gone; a turn that he had been given comes back."""
        if not turn.cancel() and turn.exception() is None:
            self.leave()

    def give(self) -> None:
        """Give turns while there are any; to be called whenever engines have taken something."""
        given: list[Future[None]] = []
        late: list[tuple[Future[None], float]] = []
        with self._lock:
            while len(self._line) and self._pipe() < self._ahead:
                now = self._clock()
                taken = self._line.take(1, now + self._rest_s(now))
                late += [entry for entry in taken.late if entry[0].set_running_or_notify_cancel()]
                for turn, _ in taken.batch:
                    if turn.set_running_or_notify_cancel():
                        given.append(turn)
                        self._out += 1
                        self._pace.turn(now, waiting=len(self._line) > 0)
        for turn, budget_s in late:
            turn.set_exception(DeadlineError(budget_s))
        for turn in given:
            turn.set_result(None)

    def check(self) -> None:
        """Verify the bookkeeping.

        Raises:
            AssertionError: it is broken.
        """
        with self._lock:
            self._line.check()
            assert 0 <= self._out <= self._ahead

    def _pipe(self) -> int:
        """Images that are decoded, or about to be, and that no engine has taken."""
        return self._out + self._at_hand()

    def _rest_s(self, now: float) -> float:
        """From a turn to its answer; nothing where nobody else is on the way, to find out."""
        return self._rest.value(now) if self._pipe() else 0.0

    def _refusal(self, task: str, until: float) -> OverloadedError | None:
        now, everyones = self._clock(), len(self._line)
        each_s = self._pace.each_s(now)
        before = self._line.before(task)
        wait_s = (before + self._pipe()) * each_s
        reason = ""
        if not fits(self._line.of(task), everyones, self._room):
            reason = f"{everyones} images wait already"
        elif before and before + self._pipe() >= self._ahead and wait_s > self._wait_s:
            reason = f"it would wait for {wait_s:.2g} s"
        elif 0 < before * each_s + self._rest_s(now) > until - now:
            reason = "no answer is to be expected within its time"
        return OverloadedError(reason, self._retry_after_s(now)) if reason else None

    def _retry_after_s(self, now: float) -> int:
        return retry_after_s(len(self._line) * self._pace.each_s(now), self._dice())
