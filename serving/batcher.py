"""The batcher's thread: pulls a batch when the engine is free. Knows queue and clock, no tensor.

There is no timer: an idle engine takes what is there at once, a busy one finds a fuller queue when
it comes back. What to take is the queue's decision, how to compute it the engine's.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from typing import Final

from serving.bundles import bundles
from serving.errors import ClosingError, DeadlineError, OverloadedError, ServingError
from serving.pace import Usual
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
            batch_max: forwards in one batch; samples that share one count once.
            cost_s: expected seconds of a batch of so many forwards.
        """
        self._execute, self._batch_max, self._cost_s = execute, batch_max, cost_s
        self._queue: FairQueue[list[_Job]] = FairQueue(queue_max)  # an entry costs one forward
        self._changed = threading.Condition()
        self._taken: Callable[[], None] = lambda: None
        self._slower = Usual()  # than was expected, as a factor: others use the processor too
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
        job = _Job(sample, Future(), time.monotonic())
        with self._changed:
            self._stand_in_line([job])
            self._changed.notify()
        return job.future

    def submit_all(self, samples: Sequence[Sample]) -> list["Future[Answer]"]:
        """Stand in line together; who finds no place has a future that failed already."""
        now = time.monotonic()
        jobs = [_Job(sample, Future(), now) for sample in samples]
        with self._changed:
            for bundle in bundles(samples):
                try:
                    self._stand_in_line([jobs[i] for i in bundle])
                except ServingError as error:
                    for i in bundle:
                        jobs[i].future.set_exception(error)
            self._changed.notify()
        return [job.future for job in jobs]

    def _stand_in_line(self, bundle: list[_Job]) -> None:
        first, patience = bundle[0], max(job.sample.budget_s for job in bundle)
        if self._closing:
            raise ClosingError
        if not len(self._queue):
            self._beat = first.since  # an idle hour is no reason for suspicion
        if not self._queue.offer(first.sample.route.task, bundle, first.since + patience):
            raise OverloadedError(f"{len(self._queue)} samples wait already", _RETRY_AFTER_S)

    @property
    def waiting(self) -> int:
        """Forwards in line."""
        return len(self._queue)

    @property
    def batch_max(self) -> int:
        """Forwards in one batch."""
        return self._batch_max

    def listen(self, taken: Callable[[], None]) -> None:
        """Have this called, in the batcher's thread, whenever the line got shorter."""
        self._taken = taken

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
                cost_s = self._cost_s(most) * max(1.0, self._slower.value(now))
                taken = self._queue.take(self._batch_max, now + cost_s)
            self._taken()
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
        done = time.monotonic()
        if (expected_s := self._cost_s(len(batch))) > 0:
            self._slower.note((done - formed) / expected_s, done)
        for job, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome.after_waiting(formed - job.since))


def _wanted(entries: Iterable[list[_Job]]) -> list[_Job]:
    """Those whose caller still waits; from here on nobody can give them up."""
    jobs = chain.from_iterable(entries)
    return [job for job in jobs if job.future.set_running_or_notify_cancel()]
