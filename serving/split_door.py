"""A door whose engines are elsewhere, put together: topology `split`. No Ray and no HTTP."""

import asyncio
import logging
from typing import Final

from adapters_store.spec import BackboneSpec
from adapters_store.store import AdapterStore
from serving.config import Megabytes, Settings
from serving.door import Door, Place
from serving.hop import Hop, Wire
from serving.sync import Follower
from serving.telemetry import Telemetry

log = logging.getLogger(__name__)

GROUP_BYTES: Final = 32 * Megabytes  # of pixels; a message may have 64 MiB


def split_door(
    settings: Settings,
    name: str,
    spec: BackboneSpec,
    group_max: int,
    wire: Wire,
    loop: asyncio.AbstractEventLoop,
) -> Door:
    """A door that has read the catalog; blocking, so not for the loop's own thread.

    Args:
        settings: of the application.
        name: of this replica.
        spec: of the backbone that the engines have.
        group_max: forwards in one batch of an engine.
        wire: to them.
        loop: of the door, on which the wire works.

    Raises:
        StoreError: the store's address means nothing.
    """
    telemetry = Telemetry(task_labels_max=settings.task_labels_max)
    height, width = spec.input_size
    hop = Hop(
        wire,
        telemetry,
        loop,
        engines=settings.replicas,
        room=settings.inside_max,
        group_max=max(1, min(group_max, GROUP_BYTES // (3 * height * width))),
        budget_s=settings.budget_s,
        load_s=settings.load_s,
    )
    store = AdapterStore.open(settings.store, spec.ref.digest)
    follower = Follower(store, hop.cards, telemetry, poll_s=settings.poll_s, load_s=settings.load_s)
    follower.start()
    log.info(
        "door ready",
        extra={"replica": name, "engines": settings.replicas, "decoders": settings.decode_threads},
    )
    place = Place(
        spec=spec,
        store=store,
        telemetry=telemetry,
        follower=follower,
        residency=hop.cards,
        engines=hop,
    )
    return Door(settings, name, place)
