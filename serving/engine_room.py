"""What an engine replica is: backbone, engine, residency, follower, batcher and merged lane.

Knows no HTTP and no Ray, and obeys digests: which release a request means, a door has decided. A
door is in the same process, or across a hop and sends groups. Blocking methods say so.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final

import torch

from adapters_store import backbone
from adapters_store.store import AdapterStore
from serving.batcher import Batcher
from serving.calls import CALLS, standing
from serving.config import Settings
from serving.engine.break_even import measure
from serving.engine.engine import Engine
from serving.engine.merged import Folded
from serving.engine.prepared import Prepared
from serving.engine.together import together
from serving.errors import ColdError, QuarantinedError
from serving.gain import Gain
from serving.hot import Hot
from serving.loading import Facts
from serving.promotion import Rules
from serving.residency import Residency
from serving.second_look import Kept, SecondLook
from serving.sync import Follower
from serving.telemetry import Telemetry
from serving.types import Answer, Card, Kind, Path, Sample

log = logging.getLogger(__name__)

_QUARANTINED_SHOWN: Final = 20
_STUCK_S: Final = 60.0  # a batch never takes this long; the thread is gone or hangs


class EngineRoom:
    """Everything that computes. The constructor blocks until the backbone is ready."""

    def __init__(self, settings: Settings, name: str, kind: Kind = Kind.ENGINE) -> None:
        """Load, measure, catch up.

        Raises:
            BackboneUnavailableError: no weights, or none that fit.
            StoreError: the store's address means nothing.
        """
        torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
        self.settings, self.name, self.kind = settings, name, kind
        self.telemetry = Telemetry(task_labels_max=settings.task_labels_max)
        self.backbone = backbone.load(
            settings.backbone, settings.weights, **settings.backbone_kwargs
        )
        self.spec = self.backbone.spec
        self.engine = Engine(self.backbone, settings.dtype, settings.device)
        self._curve = self.engine.calibrate(settings.batch_max)
        # Measured while nothing else runs, and only where it may decide something.
        best = self._curve.best()
        gain = measure(self.engine, best) if settings.merged_bytes else Gain()
        self.store = AdapterStore.open(settings.store, self.spec.ref.digest)
        self.residency = Residency(
            self.backbone,
            self.engine,
            self.store.blob,
            self.telemetry,
            slots=settings.slots,
            host_bytes=settings.host_bytes,
            slot_bytes=settings.slot_bytes,
        )
        self.follower = Follower(
            self.store,
            self.residency,
            self.telemetry,
            poll_s=settings.poll_s,
            load_s=settings.load_s,
        )
        self.batcher = Batcher(
            self._execute,
            queue_max=settings.engine_queue_max,
            batch_max=best,
            cost_s=self._curve.of,
        )
        self.second = self._second_look() if settings.second_look_share else None
        self.follower.start()
        self.hot = self._merging(gain) if settings.merged_bytes else None
        log.info(
            "replica ready",
            extra={
                "replica": name,
                "backbone": self.spec.ref.digest[:16],
                "dtype": settings.dtype,
                "threads": torch.get_num_threads(),
                "batch": best,
                "kernel": "none" if self.engine.kernel is None else self.engine.kernel.name,
                "form": str(self.engine.form),
                "generation": self.generation,
            },
        )

    def _merging(self, gain: Gain) -> Hot:
        """The merged lane, begun: it builds beside the first requests."""
        hot = Hot(
            self.backbone,
            self.engine,
            self.store.blob,
            self.telemetry,
            lambda: self.follower.view,
            self.residency.refused,
            rules=Rules(budget_bytes=self.settings.merged_bytes),
            pins=self.settings.merged_pin,
            gain=gain,
        )
        hot.start()
        return hot

    def _second_look(self) -> SecondLook:
        return SecondLook(
            self.backbone,
            self.store.blob,
            self.telemetry,
            self.residency.quiet,
            self._condemn,
            share=self.settings.second_look_share,
            dtype=self.engine.dtype,
        )

    def _condemn(self, kept: Kept, faults: tuple[str, ...]) -> None:
        """An answer was wrong, twice over: nothing answers any more as it was computed.

        A merged copy goes alone. Where the release itself is at fault, so is the mixed lane, whose
        next answer is looked at.
        """
        route = kept.route
        if kept.path is Path.MERGED and self.hot is not None:
            self.hot.doubt(route.digest)
        else:
            error = QuarantinedError(route.task, route.release, faults)
            self.residency.quarantine(route.digest, error)
            quarantined = len(self.residency.quarantines())
            self.telemetry.set("rootstock_quarantined_releases", quarantined)
        if self.second is not None:
            self.second.forget(route.digest)

    @property
    def generation(self) -> int:
        """Number of the last log entry that this replica has applied."""
        return self.follower.view.catalog.generation

    async def card(self, digest: str) -> Card:
        """What a door must know of an adapter; it is loaded and verified for that.

        Raises:
            AdapterError: it will never be served here.
            StoreError: not just now.
        """
        known = await asyncio.wrap_future(self.residency.get(digest))
        return Card.of(known)

    def install(self, digest: str, data: bytes, task: str) -> Card:
        """Verify bytes that are about to be published, and keep them; blocking.

        Raises:
            AdapterError: with every fault; TaskMismatchError when they are another task's.
        """
        return Card.of(self.residency.install(digest, data, task))

    async def compute(
        self, group: Sequence[Sample], *, patient: bool
    ) -> list[Answer | BaseException]:
        """Answers to a group that a door sent, in order; each has its own or its own error.

        A group is answered whole, so what has to be loaded first would hold up its neighbours, and
        the place that its group takes at the door: its load begins, and `ColdError` comes back at
        once. Only a patient group waits, when everything in it has to be loaded.
        """
        began = time.monotonic()
        # Held to the end of this call: a batch never waits for a store.
        loads = {s.route.digest: self.residency.get(s.route.digest) for s in group}
        if patient and not any(load.done() for load in loads.values()):
            waiting = map(asyncio.wrap_future, loads.values())
            await asyncio.gather(*waiting, return_exceptions=True)
        took = time.monotonic() - began
        errors = {digest: _failure(load) for digest, load in loads.items()}
        going = {
            i: replace(sample, budget_s=sample.budget_s - took)
            for i, sample in enumerate(group)
            if errors[sample.route.digest] is None
        }
        futures = self.batcher.submit_all(list(going.values()))
        answers = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        found: dict[int, Answer | BaseException] = dict(zip(going, answers, strict=True))
        return [
            found[i] if i in found else _error(errors[sample.route.digest])
            for i, sample in enumerate(group)
        ]

    def refused(self, digest: str) -> bool:
        """Whether this digest is known never to be served here."""
        return self.residency.refused(digest)

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether groups should come here, and the reasons for a reader."""
        status = standing(self, self.residency.refusals(), self.spec.ref, self.settings.dtype)
        quarantined = {f"{e.task}@{e.release}" for e in self.residency.quarantines()}
        status["quarantined"] = sorted(quarantined)[:_QUARANTINED_SHOWN]
        return self.follower.ever_read and self.healthy(), status

    def healthy(self) -> bool:
        """Whether the batcher's thread still comes round."""
        return self.batcher.stuck_s() < _STUCK_S

    def call(self, method: str, *args: Any) -> Any:
        """What a broadcast may ask of every replica; blocking."""
        return CALLS[method](self, *args)

    def drain(self) -> None:
        """Compute what waits, and follow the log no longer; bounded."""
        self.follower.close()
        if self.second is not None:
            self.second.close()
        if self.hot is not None:
            self.hot.close()
        self.batcher.close()

    def close(self) -> None:
        """Stop every thread; bounded."""
        self.drain()
        self.residency.close()
        self.engine.close()

    def _execute(self, samples: Sequence[Sample]) -> Sequence[Answer | Exception]:
        """One batch, in the batcher's thread."""
        if len(samples) <= self.settings.slots:
            return self._run(samples)
        parts = _fitting(samples, self.settings.slots)
        return [answer for part in parts for answer in self._run_part(part)]

    def _run_part(self, samples: Sequence[Sample]) -> list[Answer | Exception]:
        """The same for a part of a batch: what goes wrong here is not the other parts' trouble."""
        try:
            return self._run(samples)
        except Exception as error:
            log.exception("a part of a batch failed", extra={"samples": len(samples)})
            return [error] * len(samples)

    def _run(self, samples: Sequence[Sample]) -> list[Answer | Exception]:
        """Samples of no more releases than there are slots."""
        digests = [s.route.digest for s in samples]
        merged = {} if self.hot is None else self.hot.choose([s.route for s in samples])
        placed = self.residency.slot(d for d in digests if d not in merged)
        slotted = {d: p for d, p in placed.items() if not isinstance(p, Exception)}
        how: dict[str, Prepared | Folded] = {**slotted, **merged}
        try:
            runnable = [i for i, d in enumerate(digests) if d in how]
            answers: dict[int, Answer] = {}
            if runnable:
                batch = together(
                    [samples[i].pixels for i in runnable], [how[digests[i]] for i in runnable]
                )
                began = time.perf_counter()
                logits = batch.apart(self.engine.run(batch.pixels, batch.adapters))
                took = time.perf_counter() - began
                for i, row in zip(runnable, logits, strict=True):
                    answers[i] = Answer(
                        logits=row,
                        path=Path.MERGED if digests[i] in merged else Path.MIXED,
                        compute_s=took,
                        batch=len(runnable),
                    )
                self._note(answers.values(), len(how))
                self._offer([(samples[i], answer) for i, answer in answers.items()])
        finally:
            self.residency.release(slotted)
        return [answers[i] if i in answers else _error(placed[d]) for i, d in enumerate(digests)]

    def _offer(self, answered: Collection[tuple[Sample, Answer]]) -> None:
        """To the second look; what goes wrong there costs nobody an answer."""
        if self.second is None:
            return
        try:
            self.second.offer(answered)
        except Exception:
            log.exception("answers were not offered to the second look")

    def _note(self, answers: Collection[Answer], distinct: int) -> None:
        self.telemetry.observe("rootstock_batch_samples", len(answers))
        self.telemetry.observe("rootstock_batch_tasks", distinct)
        for path, samples in Counter(a.path for a in answers).items():
            self.telemetry.count("rootstock_samples", samples, path=path.value)
        self.telemetry.set("rootstock_queue_samples", self.batcher.waiting)


def _fitting(samples: Sequence[Sample], slots: int) -> Iterator[list[Sample]]:
    """Samples in order, cut where one more release would find no slot."""
    part: list[Sample] = []
    distinct: set[str] = set()
    for sample in samples:
        if len(distinct | {sample.route.digest}) > slots:
            yield part
            part, distinct = [], set()
        part.append(sample)
        distinct.add(sample.route.digest)
    yield part


def _failure(load: "Future[Facts]") -> BaseException | None:
    """Why an adapter cannot be used now; None: it can."""
    return load.exception() if load.done() else ColdError()


def _error(outcome: object) -> Exception:
    assert isinstance(outcome, Exception)
    return outcome
