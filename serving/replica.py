"""One replica, whole: backbone, engine, residency, follower and batcher in one process.

Knows neither Ray nor HTTP: the api calls it, the Ray shell holds it. Blocking methods say so.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from adapters_store import artifact, backbone, pixels
from adapters_store.catalog import resolve
from adapters_store.errors import AdapterError, StoreError
from adapters_store.store import AdapterStore, Published
from serving.batcher import Batcher
from serving.config import Settings
from serving.engine.break_even import measure
from serving.engine.engine import Engine
from serving.engine.merged import Folded
from serving.engine.prepared import Prepared
from serving.errors import BehindError, ReleaseFailedError
from serving.gain import Gain
from serving.hot import Hot
from serving.loading import Facts
from serving.promotion import Rules
from serving.residency import Residency
from serving.router import route, to
from serving.sync import Follower
from serving.telemetry import Telemetry
from serving.types import Answer, Path, Route, Sample

log = logging.getLogger(__name__)

_STUCK_S: Final = 60.0  # a batch never takes this long; the thread is gone or hangs


@dataclass(frozen=True, slots=True)
class Classified:
    """One image's answer, and what it took."""

    route: Route
    labels: tuple[str, ...]
    answer: Answer
    decode_s: float


class Replica:
    """Everything that answers. The constructor blocks until the backbone is ready."""

    def __init__(self, settings: Settings, name: str) -> None:
        """Load, measure, catch up.

        Raises:
            BackboneUnavailableError: no weights, or none that fit.
            StoreError: the store's address means nothing.
        """
        torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
        self.settings, self.name = settings, name
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
        self._decoders = ThreadPoolExecutor(settings.decode_threads, "rootstock-decode")
        self._writers = ThreadPoolExecutor(4, "rootstock-write")
        self._waiters = ThreadPoolExecutor(4, "rootstock-wait")  # readers must not hold up writers
        self.batcher = Batcher(
            self._execute,
            queue_max=settings.queue_max,
            batch_max=best,
            cost_s=self._curve.of,
        )
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

    @property
    def generation(self) -> int:
        """Number of the last log entry that this replica has applied."""
        return self.follower.view.catalog.generation

    async def classify(
        self, ref: str, image: bytes, *, key: str | None, budget_s: float
    ) -> Classified:
        """Route, decode, queue, compute one image.

        Raises:
            CatalogError, ImageInvalidError, ServingError, StoreError
        """
        began = time.monotonic()
        way, facts = await self.locate(ref, key)
        loop = asyncio.get_running_loop()
        preprocess, limit = facts.preprocess, self.settings.pixels_max
        picture = await loop.run_in_executor(
            self._decoders, pixels.pixels, image, preprocess, limit
        )
        decoded = time.monotonic()
        sample = Sample(route=way, pixels=picture, budget_s=budget_s - (decoded - began))
        answer = await asyncio.wrap_future(self.batcher.submit(sample))
        return Classified(way, facts.labels, answer, decoded - began)

    async def locate(self, ref: str, key: str | None) -> tuple[Route, Facts]:
        """The release that answers, and its adapter in host memory.

        Raises:
            TaskNotFoundError, ReleaseNotFoundError, ReleaseFailedError, StoreError
        """
        try:
            return await self._find(ref, key)
        except AdapterError:
            pass  # now known to be refused: the second look finds the release before it
        except StoreError:
            view = self.follower.view
            older = None if "@" in ref else view.verified.get(ref)
            if older is None:
                raise
            return await self._load(to(older, view.catalog))
        try:
            return await self._find(ref, key)
        except AdapterError:
            release = resolve(self.follower.view.catalog, ref, key)
            raise ReleaseFailedError(release.task, release.number) from None

    async def _find(self, ref: str, key: str | None) -> tuple[Route, Facts]:
        view = self.follower.view
        return await self._load(
            route(view.catalog, ref, key, view.verified, self.residency.refused)
        )

    async def _load(self, way: Route) -> tuple[Route, Facts]:
        facts = await asyncio.wrap_future(self.residency.get(way.digest))
        self.follower.passed(way.task, way.digest)
        return way, facts

    async def ensure(self, generation: int, timeout_s: float) -> None:
        """Have at least that generation applied.

        Raises:
            BehindError: it could not be reached in time.
        """
        if self.generation < generation:
            loop = asyncio.get_running_loop()
            if not await loop.run_in_executor(
                self._waiters, self.follower.ensure, generation, timeout_s
            ):
                raise BehindError(generation, self.generation)

    async def write(self, change: Callable[[], Any]) -> Any:
        """Run a change of the store off the event loop, then apply it here."""
        loop = asyncio.get_running_loop()
        outcome = await loop.run_in_executor(self._writers, change)
        await loop.run_in_executor(self._writers, self.follower.catch_up)
        return outcome

    def publish(self, data: bytes, task: str, **how: Any) -> Published:
        """Verify the bytes here, effect included, and make them a release; blocking.

        Raises:
            AdapterError: refused, with every fault; the store is unchanged.
            CatalogError, StoreError
        """
        self.residency.install(artifact.digest(data), data, task)
        return self.store.publish(data, task, **how)

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests should come here, and the reasons for a reader."""
        refused = self.residency.refusals()
        failing = sorted(
            state.name
            for state in (self.follower.view.catalog.tasks.values() if refused else ())
            if not state.retired
            and state.active is not None
            and (release := state.find(state.active)) is not None
            and release.digest in refused
        )
        status = {
            "replica": self.name,
            "generation": self.generation,
            "store": self.follower.state,
            "failing": failing[:20],
            "backbone": self.spec.ref.name,
            "digest": self.spec.ref.digest,
            "dtype": self.settings.dtype,
        }
        return self.follower.ever_read and self.healthy(), status

    def healthy(self) -> bool:
        """Whether the batcher's thread still comes round."""
        return self.batcher.stuck_s() < _STUCK_S

    def call(self, method: str, *args: Any) -> Any:
        """What a broadcast may ask of every replica; blocking."""
        return _CALLS[method](self, *args)

    def close(self) -> None:
        """Compute what waits, then stop every thread; bounded."""
        self.follower.close()
        if self.hot is not None:
            self.hot.close()
        self.batcher.close()
        # Before residency: a publish under way would end a load that was given up meanwhile.
        self._writers.shutdown(wait=True, cancel_futures=True)
        self.residency.close()
        self.engine.close()
        for pool in (self._decoders, self._waiters):
            pool.shutdown(wait=True, cancel_futures=True)

    def _execute(self, samples: Sequence[Sample]) -> Sequence[Answer | Exception]:
        """One batch, in the batcher's thread."""
        digests = [s.route.digest for s in samples]
        merged = {} if self.hot is None else self.hot.choose([s.route for s in samples])
        placed = self.residency.slot(d for d in digests if d not in merged)
        slotted = {d: p for d, p in placed.items() if not isinstance(p, Exception)}
        how: dict[str, Prepared | Folded] = {**slotted, **merged}
        try:
            runnable = [i for i, d in enumerate(digests) if d in how]
            answers: dict[int, Answer] = {}
            if runnable:
                batch = np.stack([samples[i].pixels for i in runnable])
                began = time.perf_counter()
                logits = self.engine.run(batch, [how[digests[i]] for i in runnable])
                took = time.perf_counter() - began
                for i, row in zip(runnable, logits, strict=True):
                    answers[i] = Answer(
                        logits=row,
                        path=Path.MERGED if digests[i] in merged else Path.MIXED,
                        compute_s=took,
                        batch=len(runnable),
                    )
                self._note(answers.values(), len(how))
        finally:
            self.residency.release(slotted)
        return [answers[i] if i in answers else _error(placed[d]) for i, d in enumerate(digests)]

    def _note(self, answers: Collection[Answer], distinct: int) -> None:
        self.telemetry.observe("rootstock_batch_samples", len(answers))
        self.telemetry.observe("rootstock_batch_tasks", distinct)
        for path, samples in Counter(a.path for a in answers).items():
            self.telemetry.count("rootstock_samples", samples, path=path.value)
        self.telemetry.set("rootstock_queue_samples", self.batcher.waiting)


def _error(outcome: object) -> Exception:
    assert isinstance(outcome, Exception)
    return outcome


def _catch_up(replica: Replica, generation: int, timeout_s: float) -> dict[str, Any]:
    replica.follower.ensure(generation, timeout_s)
    return {"replica": replica.name, "generation": replica.generation}


def _status(replica: Replica) -> dict[str, Any]:
    ready, status = replica.ready()
    return {"ready": ready, **status}


def _metrics(replica: Replica) -> tuple[str, Any]:
    return replica.name, replica.telemetry.snapshot()


def _task(replica: Replica, task: str) -> dict[str, Any]:
    """What this replica answers with for a task."""
    view = replica.follower.view
    way = route(view.catalog, task, None, view.verified, replica.residency.refused)
    return {
        "replica": replica.name,
        "generation": replica.generation,
        "release": way.release,
        "digest": way.digest,
    }


_CALLS: Final[Mapping[str, Callable[..., Any]]] = {
    "catch_up": _catch_up,
    "status": _status,
    "metrics": _metrics,
    "task": _task,
}
