"""Upkeep: is the store whole, and what may be thrown away? Knows no precondition and no tensor."""

import sys
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from adapters_store.blobs import Blobs
from adapters_store.catalog import Catalog, Release, fold_all
from adapters_store.errors import StoreCorruptError, StoreError
from adapters_store.log import Log
from adapters_store.objects import Objects

GC_AGE: Final = timedelta(hours=24)  # by the store's clock
_READERS: Final = 8  # threads, each with one artifact in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreReport:
    """What `verify` looked at, and everything that is wrong with it."""

    events: int
    snapshots: int
    releases: int  # live ones
    blobs: int  # that live releases name
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport:
    """What `gc` deleted and what it left alone."""

    deleted: tuple[str, ...]  # digests
    freed_bytes: int
    young: int  # unnamed too, but not old enough
    named: int  # by a live release
    litter: int  # probes and drafts that killed writers had left


def verify(log: Log, blobs: Blobs) -> StoreReport:
    """Read everything: each event, snapshot and blob of a live release. Retired ones may be gone.

    Raises:
        StoreUnavailableError: the store could not be listed.
    """
    snapshots, stray = log.numbers("snapshots")  # first: the log may grow while this reads it
    numbers, strange = log.numbers("log")
    events, blocked = log.read(0)
    faults = [f"{path} has no place in the log" for path in strange]
    faults += [f"{path} has no place among the snapshots" for path in stray]
    twice = [id_ for id_, times in Counter(event.id for event in events).items() if times > 1]
    faults += [f"event {id_} is in the log more than once" for id_ in twice]
    if blocked:
        faults.append(str(blocked))
    elif numbers and len(events) < numbers[-1]:
        faults.append(f"log entry {len(events) + 1} is missing, yet {numbers[-1]} exists")
    catalog, done = Catalog(), 0
    for generation in snapshots:
        if generation > len(events):
            faults.append(f"snapshot {generation} lies behind the end of the readable log")
            continue
        catalog, done = fold_all(catalog, events[done:generation]), generation
        faults += _snapshot_faults(log, catalog)
    catalog = fold_all(catalog, events[done:])
    live = _live(catalog)
    sizes = {r.digest: r.bytes for r in live}

    def check(digest: str) -> str:
        try:
            size = len(blobs.get(digest))
        except StoreError as error:
            return str(error)
        return "" if size == sizes[digest] else f"{digest} has {size} bytes, not {sizes[digest]}"

    with ThreadPoolExecutor(_READERS) as pool:
        faults += filter(None, pool.map(check, sizes))
    return StoreReport(
        events=len(events),
        snapshots=len(snapshots),
        releases=len(live),
        blobs=len(sizes),
        faults=tuple(faults),
    )


def collect(objects: Objects, log: Log, blobs: Blobs, catalog: Catalog) -> GcReport:
    """Delete blobs that no live release of `catalog`, which is the newest, names and that are old.

    A publisher may be bringing the same bytes back at this moment. It writes its blob before its
    event and looks for the blob after it; here blobs are put aside before the log is read again.
    Whoever comes last sees the other, and the blob is there again. What a collector that died left
    aside is settled by the next one that comes 24 h later; until then readers find it there.

    One hole is known, and no store without conditional deletion can close it: the publisher writes
    its blob between the last look at the blob's age here and the deletion, a moment apart, and dies
    between its event and its own look. `verify` tells, and publishing again heals it.

    Raises:
        StoreUnavailableError
        EventUnknownError: the log goes on in an unknown way, which may name any blob.
    """
    stats, now = blobs.all(), objects.now()
    limit, run = now - GC_AGE, f"{int(now.timestamp())}-{uuid.uuid4()}"
    named, young = _digests(catalog), 0
    for digest in sorted(stats.keys() - named):
        fresh = blobs.stat(digest)
        if fresh is None or fresh.modified > limit or not blobs.put_aside(digest, run):
            young += 1
    aside = [a for a in blobs.aside() if a[0] == run or _began(a[0]) < limit.timestamp()]
    caught = log.catch_up(catalog)
    named = _digests(caught.catalog)
    deleted: dict[str, int] = {}
    for owner, digest, stat in aside:
        if caught.blocked or digest in named:
            blobs.bring_back(digest, owner)
        else:
            blobs.bury(digest, owner)
            deleted[digest] = stat.bytes
    if caught.blocked:
        raise caught.blocked
    return GcReport(
        deleted=tuple(sorted(deleted)),
        freed_bytes=sum(deleted.values()),
        young=young,
        named=len(named & stats.keys()),
        litter=objects.sweep(limit),
    )


def _began(run: str) -> int:
    """When a collector began, by the store's clock; what is no run's name never did."""
    seconds = run.partition("-")[0]
    return int(seconds) if seconds.isdecimal() else sys.maxsize


def _digests(catalog: Catalog) -> set[str]:
    return {release.digest for release in _live(catalog)}


def _live(catalog: Catalog) -> list[Release]:
    return [r for t in catalog.tasks.values() for r in t.releases if not r.retired]


def _snapshot_faults(log: Log, catalog: Catalog) -> list[str]:
    """What is wrong with the snapshot of this generation, where the log folds to `catalog`."""
    try:
        kept = log.snapshot(catalog.generation)
    except StoreCorruptError as error:
        return [f"snapshot {catalog.generation}: {error.reason}"]
    if kept != catalog:
        return [f"snapshot {catalog.generation} is not what the log folds to"]
    return []
