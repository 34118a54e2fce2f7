"""What a door does: routes, decodes, has samples computed, publishes. Knows neither HTTP nor Ray.

Where samples are computed it does not know either: `Engines` may be in this process or across a
hop. Blocking methods say so.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from adapters_store import artifact, pixels
from adapters_store.catalog import resolve
from adapters_store.errors import AdapterError, StoreError
from adapters_store.manifest import Preprocess
from adapters_store.spec import BackboneSpec
from adapters_store.store import AdapterStore, Published
from serving.calls import CALLS, standing
from serving.config import Settings
from serving.errors import BehindError, DeadlineError, OverloadedError, ReleaseFailedError
from serving.lately import Lately
from serving.places import Places
from serving.router import route, standing_in, to
from serving.sync import Follower
from serving.telemetry import Telemetry
from serving.turns import Turns
from serving.types import Arriving, Classified, Engines, Kind, Known, Route, Sample

_BEHIND_MAX: Final = 64  # calls that wait for one generation or another at once
_ENGINE_SHOWN: Final = ("replica", "ready", "generation", "store", "failing", "quarantined")
_ASKED_AGAIN_S: Final = 0.5  # engines, about how they are; a storm of probes costs one broadcast


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a door stands on."""

    spec: BackboneSpec
    store: AdapterStore
    telemetry: Telemetry
    follower: Follower  # started by whoever made it
    residency: Arriving  # that it follows
    engines: Engines


class Door:
    """One replica as HTTP sees it."""

    def __init__(self, settings: Settings, name: str, place: Place, kind: Kind = Kind.DOOR) -> None:
        self.settings, self.name, self.kind = settings, name, kind
        self.spec, self.store = place.spec, place.store
        self.telemetry, self.follower = place.telemetry, place.follower
        self.residency, self.engines = place.residency, place.engines
        self.turns = Turns(
            room=settings.inside_max,
            ahead=place.engines.ahead + settings.decode_threads,
            wait_s=settings.wait_s,
            at_hand=lambda: place.engines.waiting,
        )
        place.engines.listen(self.turns.give)
        self._engines_are = Lately(place.engines.status, _ASKED_AGAIN_S)
        self._decoders = ThreadPoolExecutor(settings.decode_threads, "rootstock-decode")
        self._writers = ThreadPoolExecutor(4, "rootstock-write")
        self._waiters = ThreadPoolExecutor(4, "rootstock-wait")  # readers must not hold up writers
        self._loading = Places(settings.inside_max)  # calls that wait for their adapter
        self._behind = 0  # calls that wait for a generation; only the event loop touches it

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
        (outcome,) = await self.classify_alike(ref, [image], key=key, budget_s=budget_s)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def classify_alike(
        self, ref: str, images: Sequence[bytes], *, key: str | None, budget_s: float
    ) -> list[Classified | BaseException]:
        """The same for several images, all by one release; each has its answer or its error.

        Raises:
            CatalogError, ServingError, StoreError: none of them has one.
        """
        until = time.monotonic() + budget_s
        for last in (False, True):
            way, known = await self.locate(ref, key)
            outcomes = await asyncio.gather(
                *(self._computed(way, known, image, until) for image in images),
                return_exceptions=True,
            )
            if not any(isinstance(outcome, AdapterError) for outcome in outcomes):
                return outcomes
            # An engine found out only now that it cannot serve this: look once more.
            if last:
                raise ReleaseFailedError(way.task, way.release)
        raise AssertionError(ref)

    async def _computed(self, way: Route, known: Known, image: bytes, until: float) -> Classified:
        async with self._turn(way.task, until) as waited_s:
            began = time.monotonic()
            picture = await self._decoded(image, known.preprocess)
        decoded = time.monotonic()
        try:
            answer = await self.engines.compute(_sample(way, known, picture, until - decoded))
        except DeadlineError:
            self.turns.answered(until - began)
            raise
        self.turns.answered(time.monotonic() - began)
        whole = answer.after_waiting(waited_s + answer.queue_s)
        return Classified(way, known.labels, whole, decoded - began)

    @asynccontextmanager
    async def _turn(self, task: str, until: float) -> AsyncIterator[float]:
        """Wait for a turn to decode, and give it back; how many seconds that took.

        Raises:
            OverloadedError: it is not worth while.
            DeadlineError: its time is over, or as good as over.
        """
        stood = time.monotonic()
        turn = self.turns.stand(task, until)
        self.telemetry.set("rootstock_door_images", self.turns.waiting)
        try:
            await asyncio.wrap_future(turn)
        except BaseException:
            self.turns.give_up(turn)
            raise
        try:
            yield time.monotonic() - stood
        finally:
            self.turns.leave()
            self.telemetry.set("rootstock_door_images", self.turns.waiting)

    async def classify_all(
        self, refs: Sequence[str], image: bytes, *, key: str | None, budget_s: float
    ) -> list[Classified | BaseException]:
        """One image for many tasks: decoded once for each way of preprocessing, computed together.

        Every task has its own answer or its own error.
        """
        until = time.monotonic() + budget_s
        located = await asyncio.gather(
            *(self.locate(ref, key) for ref in refs), return_exceptions=True
        )
        found = {i: at for i, at in enumerate(located) if not isinstance(at, BaseException)}
        if not found:
            return [at for at in located if isinstance(at, BaseException)]
        async with self._turn(next(iter(found.values()))[0].task, until) as waited_s:
            began = time.monotonic()
            pictures = await self._arranged(image, [known for _, known in found.values()])
        decoded = time.monotonic()
        results: list[Classified | BaseException] = [
            at if isinstance(at, BaseException) else AssertionError() for at in located
        ]
        samples = []
        for i, (way, known) in list(found.items()):
            picture = pictures[known.preprocess]
            if isinstance(picture, BaseException):  # too long and thin for this task's geometry
                results[i] = picture
                del found[i]
            else:
                samples.append(_sample(way, known, picture, until - decoded))
        outcomes = await self.engines.compute_all(samples)
        for (i, (way, known)), outcome in zip(found.items(), outcomes, strict=True):
            if isinstance(outcome, AdapterError):
                results[i] = await self._alone(refs[i], image, key, until)
            elif isinstance(outcome, BaseException):
                results[i] = outcome
            else:
                whole = outcome.after_waiting(waited_s + outcome.queue_s)
                results[i] = Classified(way, known.labels, whole, decoded - began)
        return results

    async def _arranged(
        self, image: bytes, wanted: Sequence[Known]
    ) -> Mapping[Preprocess, NDArray[np.uint8] | BaseException]:
        """An image as each wants it; raised is what goes wrong for all."""
        ways = list(dict.fromkeys(known.preprocess for known in wanted))
        decoding = (self._decoded(image, preprocess) for preprocess in ways)
        arranged = await asyncio.gather(*decoding, return_exceptions=True)
        if all(isinstance(one, BaseException) for one in arranged):
            raise next(one for one in arranged if isinstance(one, BaseException))
        return dict(zip(ways, arranged, strict=True))

    async def _alone(
        self, ref: str, image: bytes, key: str | None, until: float
    ) -> Classified | BaseException:
        try:
            return await self.classify(ref, image, key=key, budget_s=until - time.monotonic())
        except Exception as error:  # noqa: BLE001 (it is this task's answer)
            return error

    async def _decoded(self, image: bytes, preprocess: Preprocess) -> NDArray[np.uint8]:
        decode = partial(pixels.pixels, image, preprocess, self.settings.pixels_max)
        return await asyncio.get_running_loop().run_in_executor(self._decoders, decode)

    def named(self, ref: str, key: str | None) -> str:
        """The task that `task`, `task@3` or `task@alias` is of; nothing is loaded.

        Raises:
            TaskNotFoundError, ReleaseNotFoundError
        """
        return resolve(self.follower.view.catalog, ref, key).task

    async def locate(self, ref: str, key: str | None) -> tuple[Route, Known]:
        """The release that answers, and its adapter where it is computed.

        Raises:
            TaskNotFoundError, ReleaseNotFoundError, ReleaseFailedError, StoreError, EngineLostError
            OverloadedError: too many wait for loads.
        """
        try:
            return await self._find(ref, key)
        except AdapterError:
            pass  # now known to be refused: the second look finds the release before it
        except StoreError:
            view = self.follower.view
            passed = () if "@" in ref else view.verified.get(ref, ())
            older = standing_in(passed, self.refused)
            if older is None:
                raise
            return await self._load(to(older, view.catalog))
        try:
            return await self._find(ref, key)
        except AdapterError:
            release = resolve(self.follower.view.catalog, ref, key)
            raise ReleaseFailedError(release.task, release.number) from None

    async def _find(self, ref: str, key: str | None) -> tuple[Route, Known]:
        view = self.follower.view
        return await self._load(route(view.catalog, ref, key, view.verified, self.refused))

    async def _load(self, way: Route) -> tuple[Route, Known]:
        coming = self.engines.known(way.digest)
        known: Known
        known = coming.result() if coming.done() else await self._loaded(way.task, coming)
        self.follower.passed(way.task, way.digest)
        return way, known

    async def _loaded(self, task: str, coming: "Future[Any]") -> Known:
        """An adapter that is not at hand, once it is.

        Who waits for one has a place among those who do: a store that does not answer must not
        keep out the tasks that are here.

        Raises:
            OverloadedError: too many do.
        """
        if not self._loading.take(task):
            reason = "too many calls wait for adapters to be loaded"
            raise OverloadedError(reason, self.turns.retry_after_s())
        try:
            known: Known = await asyncio.wrap_future(coming)
            return known
        finally:
            self._loading.give(task)

    async def ensure(self, generation: int, timeout_s: float) -> None:
        """Have at least that generation applied.

        Those who ask for what will never come must not hold up the others for long: only so many
        wait at once, and the time that one waits for its thread is its own.

        Raises:
            BehindError: it could not be reached in time, or too many wait already.
        """
        if self.generation >= generation:
            return
        if self._behind >= _BEHIND_MAX:
            raise BehindError(generation, self.generation)
        until = time.monotonic() + timeout_s

        def caught_up() -> bool:
            return self.follower.ensure(generation, max(0.0, until - time.monotonic()))

        self._behind += 1
        try:
            waiting = asyncio.get_running_loop().run_in_executor(self._waiters, caught_up)
            reached = await asyncio.wait_for(waiting, timeout_s)
        except TimeoutError:
            reached = self.generation >= generation
        finally:
            self._behind -= 1
        if not reached:
            raise BehindError(generation, self.generation)

    async def write(self, change: Callable[[], Any]) -> Any:
        """Run a change of the store off the event loop, then apply it here."""
        loop = asyncio.get_running_loop()
        outcome = await loop.run_in_executor(self._writers, change)
        await loop.run_in_executor(self._writers, self.follower.catch_up)
        return outcome

    def publish(self, data: bytes, task: str, **how: Any) -> Published:
        """Have the bytes verified, effect included, and make them a release; blocking.

        Raises:
            AdapterError: refused, with every fault; the store is unchanged.
            CatalogError, StoreError, EngineLostError
        """
        self.engines.install(artifact.digest(data), data, task)
        return self.store.publish(data, task, **how)

    def refused(self, digest: str) -> bool:
        """Whether this digest is known never to be served here."""
        return self.engines.refused(digest)

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether this process is ready, and the reasons for a reader."""
        status = standing(self, self.engines.refusals(), self.spec.ref, self.settings.dtype)
        return self.follower.ever_read and self.healthy(), status

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests should come here: this process is ready, and so is an engine."""
        ready, status = self.ready()
        engines = await self._engines_are()
        status["engines"] = [
            {k: e.get(k, []) for k in _ENGINE_SHOWN}  # one of an earlier build may say less
            for e in sorted(engines, key=lambda e: str(e["replica"]))
        ]
        return ready and any(e["ready"] for e in engines), status

    def healthy(self) -> bool:
        """Whether what is in this process still comes round."""
        return self.engines.healthy()

    def call(self, method: str, *args: Any) -> Any:
        """What a broadcast may ask of every replica; blocking."""
        return CALLS[method](self, *args)

    def close(self) -> None:
        """Compute what waits, then stop every thread; bounded."""
        self.follower.close()
        self.engines.drain()
        # Before the engines: a publish under way would end a load that was given up meanwhile.
        self._writers.shutdown(wait=True, cancel_futures=True)
        self.engines.close()
        for pool in (self._decoders, self._waiters):
            pool.shutdown(wait=True, cancel_futures=True)


def _sample(way: Route, known: Known, picture: NDArray[np.uint8], budget_s: float) -> Sample:
    return Sample(route=way, pixels=picture, budget_s=budget_s, head_only=known.head_only)
