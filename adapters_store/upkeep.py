"""Upkeep: is the store whole, and what may be thrown away? Knows no precondition and no tensor."""

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


def verify(log: Log, blobs: Blobs) -> StoreReport:
    """Read everything: each event, snapshot and blob of a live release. Retired ones may be gone.

    Raises:
        StoreUnavailableError: the store could not be listed.
    """
    numbers, strange = log.numbers("log")
    events, blocked = log.read(0)
    faults = [f"{path} has no place in the log" for path in strange]
    if blocked:
        faults.append(str(blocked))
    elif numbers and len(events) < numbers[-1]:
        faults.append(f"log entry {len(events) + 1} is missing, yet {numbers[-1]} exists")
    catalog, done = Catalog(), 0
    snapshots, strange = log.numbers("snapshots")
    faults += [f"{path} has no place among the snapshots" for path in strange]
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
    event and looks for the blob after it; here the log is read again after each deletion. Whoever
    comes last sees the other, and the blob is there again.

    Raises:
        StoreUnavailableError
        EventUnknownError: the log goes on in an unknown way, which may name any blob.
    """
    stats = blobs.all()
    named = {r.digest for r in _live(catalog)}
    limit = objects.now() - GC_AGE
    deleted, freed, young = [], 0, 0
    for digest, listed in stats.items():
        if digest in named:
            continue
        if listed.modified > limit:
            young += 1
            continue
        data = objects.get(listed.path, listed.bytes)
        now = blobs.stat(digest)
        if data is None or now is None or now.modified > limit:
            young += 1
            continue
        blobs.delete(digest)
        caught = log.catch_up(catalog)
        catalog, named = caught.catalog, {r.digest for r in _live(caught.catalog)}
        if digest in named or caught.blocked:
            objects.put(listed.path, data)
        if caught.blocked:
            raise caught.blocked
        if digest not in named:
            deleted.append(digest)
            freed += listed.bytes
    return GcReport(
        deleted=tuple(deleted), freed_bytes=freed, young=young, named=len(named & stats.keys())
    )


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
