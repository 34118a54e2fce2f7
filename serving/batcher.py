"""The batcher's thread: pulls a batch when the engine is free. Knows queue and clock, no tensor.

There is no timer: an idle engine takes what is there at once, a busy one finds a fuller queue when
it comes back. What to take is the queue's decision, how to compute it the engine's.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from serving.errors import ClosingError, DeadlineError, OverloadedError
from serving.queue import FairQueue
from serving.types import Answer, Sample

log = logging.getLogger(__name__)

_RETRY_AFTER_S: Final = 1

# What computes a batch: each sample's answer, or the error that sample alone gets.
Execute = Callable[[Sequence[Sample]], Sequence[Answer | Exception]]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    sample: Sample
    future: "Future[Answer]"
    since: float  # monotonic seconds at submission


class Batcher:
    """Samples in, futures out, one thread between."""

    def __init__(
        self, execute: Execute, *, queue_max: int, batch_max: int, cost_s: Callable[[int], float]
    ) -> None:
        """Start the thread.

        Args:
            execute: computes a batch, in the batcher's thread.
            queue_max: samples that may wait.
            batch_max: samples in one batch.
            cost_s: expected seconds of a batch of so many samples.
        """
        self._execute, self._batch_max, self._cost_s = execute, batch_max, cost_s
        self._queue: FairQueue[_Job] = FairQueue(queue_max)
        self._changed = threading.Condition()
        self._closing = False
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="rootstock-batcher", daemon=True)
        self._thread.start()

    def submit(self, sample: Sample) -> "Future[Answer]":
        """Stand in line.

        Raises:
            OverloadedError: too many wait already.
            ClosingError: shutting down.
        """
        future: Future[Answer] = Future()
        now = time.monotonic()
        job = _Job(sample, future, now)
        with self._changed:
            if self._closing:
                raise ClosingError
            if not len(self._queue):
                self._beat = now  # an idle hour is no reason for suspicion
            if not self._queue.offer(sample.route.task, job, now + sample.budget_s):
                raise OverloadedError(f"{len(self._queue)} samples wait already", _RETRY_AFTER_S)
            self._changed.notify()
        return future

    @property
    def waiting(self) -> int:
        """Samples in line."""
        return len(self._queue)

    def stuck_s(self) -> float:
        """Seconds since the thread last came round while something waits; 0 when idle."""
        if not self._thread.is_alive() and not self._closing:
            return float("inf")
        return time.monotonic() - self._beat if self.waiting else 0.0

    def close(self, timeout_s: float = 10.0) -> None:
        """Compute what waits, refuse the rest, stop the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        with self._changed:
            rest = self._queue.take(len(self._queue), 0.0)
        for job in _wanted((*rest.batch, *rest.late)):
            job.future.set_exception(ClosingError())

    def _run(self) -> None:
        while True:
            with self._changed:
                while not len(self._queue):
                    if self._closing:
                        return
                    self._changed.wait()
                self._beat = now = time.monotonic()
                most = min(self._batch_max, len(self._queue))
                taken = self._queue.take(self._batch_max, now + self._cost_s(most))
            # A future that its caller gave up is neither computed nor set: setting it would raise.
            for job in _wanted(taken.late):
                job.future.set_exception(DeadlineError(job.sample.budget_s))
            if batch := _wanted(taken.batch):
                self._compute(batch, now)

    def _compute(self, batch: list[_Job], formed: float) -> None:
        try:
            outcomes = list(self._execute([job.sample for job in batch]))
            assert len(outcomes) == len(batch), "one outcome a sample"
        except Exception as error:  # the thread must outlive any batch
            log.exception("a batch failed", extra={"samples": len(batch)})
            outcomes = [error] * len(batch)
        for job, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome.after_waiting(formed - job.since))


def _wanted(jobs: Sequence[_Job]) -> list[_Job]:
    """Those whose caller still waits; from here on nobody can give them up."""
    return [job for job in jobs if job.future.set_running_or_notify_cancel()]
