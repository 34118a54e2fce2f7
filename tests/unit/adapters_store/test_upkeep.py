"""Upkeep: damage is found, and the collector takes nothing that is needed."""

import hashlib
from datetime import timedelta

import pytest

from adapters_store.catalog import resolve
from adapters_store.errors import (
    StoreCorruptError,
    StoreUnavailableError,
)
from adapters_store.objects import Objects, Stat
from adapters_store.store import AdapterStore

BACKBONE = "0123456789abcdef" * 4
FOLDER = BACKBONE[:16]


def opened(uri: str, kind: type[Objects] = Objects) -> AdapterStore:
    return AdapterStore(kind.open(uri, FOLDER))


class Torn(Objects):
    """Dies between blob and event."""

    def put_new(self, path: str, data: bytes) -> bool:
        if path.startswith("log/"):
            raise KeyboardInterrupt
        return super().put_new(path, data)


def test_blobs_are_proven_when_they_are_read(uri):
    """Other bytes under a digest are corrupt; an absent blob is unavailable."""
    store = opened(uri)
    digest = store.publish(b"petals", "flowers", by="ann").release.digest
    path = f"blobs/sha256/{digest}.safetensors"
    objects = Objects.open(uri, FOLDER)

    objects.put(path, b"thorns")
    with pytest.raises(StoreCorruptError):
        store.blob(digest)
    assert "its bytes have digest" in store.verify().faults[0]
    objects.delete(path)
    with pytest.raises(StoreUnavailableError, match="missing"):
        store.blob(digest)
    assert "missing" in store.verify().faults[0]
    store.publish(b"petals", "flowers", by="ann")
    assert store.verify().faults == (), "publishing again heals"


def test_a_gap_in_the_log_is_found(uri):
    """A reader stops at the gap; `verify` knows that something lies behind it."""
    store = opened(uri)
    for data in (b"one", b"two", b"three"):
        store.publish(data, "flowers", by="ann")
    objects = Objects.open(uri, FOLDER)
    objects.delete("log/00000000000000000002.json")
    objects.put("log/2.json", b"")

    report = opened(uri).verify()

    assert report.events == 1
    assert len(report.faults) == 2
    assert "log entry 2 is missing, yet 3 exists" in report.faults


class Tomorrow(Objects):
    """Its clock is 25 hours ahead of all it kept so far."""

    def stat(self, path: str) -> Stat | None:
        found = super().stat(path)
        if found and path.startswith("probe/"):
            found = Stat(
                path=path, bytes=found.bytes, modified=found.modified + timedelta(hours=25)
            )
        return found


def test_the_collector_takes_only_what_is_old_and_unnamed(uri):
    """Live releases stay, active or not; younger blobs stay; the rest goes."""
    store = opened(uri)
    for data in (b"one", b"two", b"three"):
        store.publish(data, "flowers", by="ann")
    store.retire("flowers", 1, by="ann")
    with pytest.raises(KeyboardInterrupt):
        opened(uri, Torn).publish(b"never finished", "flowers", by="ann")

    early, late = store.gc(), opened(uri, Tomorrow).gc()

    assert (early.deleted, early.young, early.named) == ((), 2, 2)
    assert set(late.deleted) == {
        hashlib.sha256(data).hexdigest() for data in (b"one", b"never finished")
    }
    assert (late.freed_bytes, late.young, late.named) == (17, 0, 2)
    assert store.verify().faults == ()


class Meanwhile(Tomorrow):
    """While the collector deletes a blob, a publisher finishes bringing the same bytes back."""

    def delete(self, path: str) -> None:
        if path.startswith("blobs/"):
            opened(self.uri).publish(b"one", "flowers", by="bob")
        super().delete(path)


def test_a_collector_does_not_undo_a_publication(uri):
    """A blob that becomes a release while it is deleted is put back."""
    store = opened(uri)
    store.publish(b"one", "flowers", by="ann")
    store.publish(b"two", "flowers", by="ann")
    store.retire("flowers", 1, by="ann")

    report = opened(uri, Meanwhile).gc()

    assert report.deleted == ()
    assert resolve(store.catalog(), "flowers").number == 3
    assert store.verify().faults == ()


class Robbed(Objects):
    """A collector takes the blob just before the event is written."""

    def put_new(self, path: str, data: bytes) -> bool:
        if path.startswith("log/"):
            for stat in self.under("blobs"):
                self.delete(stat.path)
        return super().put_new(path, data)


def test_a_publisher_puts_back_a_blob_that_was_collected(uri):
    """After its event a publisher looks for its blob once more."""
    done = opened(uri, Robbed).publish(b"one", "flowers", by="ann")

    assert opened(uri).blob(done.release.digest) == b"one"
