"""One replica, whole: a door and an engine in one process, a call apart. Topology `fused`.

Knows neither Ray nor HTTP: the api calls it, the Ray shell holds it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from serving.config import Settings
from serving.door import Door, Place
from serving.engine_room import EngineRoom
from serving.types import Answer, Kind, Sample


class Here:
    """The engine of this process; keeps the promise of `Engines` without a hop."""

    def __init__(self, room: EngineRoom) -> None:
        self._room, self._batcher, self._residency = room, room.batcher, room.residency
        self.refused, self.refusals = room.residency.refused, room.residency.refusals
        self.healthy, self.drain, self.close = room.healthy, room.drain, room.close
        self.listen = room.batcher.listen

    @property
    def waiting(self) -> int:
        """See `Engines`, as for everything here."""
        return self._batcher.waiting

    @property
    def ahead(self) -> int:
        """A batch, while the one before it is computed; more would only wait."""
        return self._batcher.batch_max

    def known(self, digest: str) -> "Future[Any]":
        """From host memory, or loaded and verified."""
        return self._residency.get(digest)

    async def compute(self, sample: Sample) -> Answer:
        """In the next batch."""
        return await asyncio.wrap_future(self._batcher.submit(sample))

    async def compute_all(self, samples: Sequence[Sample]) -> Sequence[Answer | BaseException]:
        """In the next batch, as far as it has room."""
        waiting = map(asyncio.wrap_future, self._batcher.submit_all(samples))
        return await asyncio.gather(*waiting, return_exceptions=True)

    def install(self, digest: str, data: bytes, task: str) -> None:
        """Verified here."""
        self._residency.install(digest, data, task)

    async def status(self) -> Sequence[Mapping[str, Any]]:
        """This one's."""
        ready, status = self._room.ready()
        return [{"ready": ready, **status}]


class Replica(Door):
    """Everything that answers. The constructor blocks until the backbone is ready."""

    def __init__(self, settings: Settings, name: str) -> None:
        """Load, measure, catch up.

        Raises:
            BackboneUnavailableError: no weights, or none that fit.
            StoreError: the store's address means nothing.
        """
        room = EngineRoom(settings, name, Kind.FUSED)
        self.engine, self.batcher, self.hot = room.engine, room.batcher, room.hot
        place = Place(
            spec=room.spec,
            store=room.store,
            telemetry=room.telemetry,
            follower=room.follower,
            residency=room.residency,
            engines=Here(room),
        )
        super().__init__(settings, name, place, Kind.FUSED)
