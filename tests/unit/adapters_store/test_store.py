"""The store over a folder, memory and S3: releases are whole, ordered, and never lost."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapters_store.catalog import Catalog, resolve
from adapters_store.errors import (
    EventUnknownError,
    NameInvalidError,
    PreconditionFailedError,
    ReleaseInUseError,
    StoreUnavailableError,
    TaskNotFoundError,
)
from adapters_store.log import SNAPSHOT_EVERY, Log
from adapters_store.objects import Objects
from adapters_store.store import AdapterStore, list_backbones

BACKBONE = "0123456789abcdef" * 4
FOLDER = BACKBONE[:16]
LONG = 48  # events, and as many to a snapshot
ROOT = Path(__file__).parents[3]


def opened(uri: str, kind: type[Objects] = Objects) -> AdapterStore:
    return AdapterStore(kind.open(uri, FOLDER))


def test_a_published_release_is_found_by_another_reader(uri):
    """Bytes, digest, author and activation arrive whole."""
    published = opened(uri).publish(b"petals", "flowers", by="ann", why="first")

    reader = AdapterStore.open(uri, BACKBONE)
    release = resolve(reader.catalog(), "flowers")
    assert published.created
    assert (published.release, published.generation) == (release, 1)
    assert (release.by, release.why, release.bytes) == ("ann", "first", 6)
    assert reader.blob(release.digest) == b"petals"
    assert list_backbones(uri) == (FOLDER,)


def test_a_life_of_a_task(uri):
    """Publish, roll back, alias, split, retire and revive, each one generation further."""
    store = opened(uri)
    for data in (b"one", b"two", b"three"):
        store.publish(data, "flowers", by="ann")

    assert store.activate("flowers", 1, by="ann") == 4
    assert store.alias("flowers", "stable", 1, by="ann") == 5
    assert store.split("flowers", {1: 9, 2: 1}, by="ann") == 6
    with pytest.raises(ReleaseInUseError):
        store.retire("flowers", 2, by="ann")
    assert store.retire("flowers", 3, by="ann") == 7
    assert store.alias("flowers", "stable", None, by="ann") == 8
    assert store.publish(b"three", "flowers", by="ann").release.number == 4
    assert store.retire("flowers", by="ann") == 10
    with pytest.raises(TaskNotFoundError):
        store.activate("flowers", 1, by="ann")
    assert store.publish(b"one", "flowers", by="ann").release.number == 5
    assert [e.kind for e in opened(uri).history("flowers")] == [
        *("publish", "publish", "publish", "activate", "alias", "split", "retire", "alias"),
        *("publish", "retire", "publish"),
    ]
    assert store.catalog() == opened(uri).catalog()
    assert store.verify().faults == ()


def test_publishing_the_same_bytes_again_writes_nothing(uri):
    """The same release is answered, from the same and from another process."""
    store = opened(uri)
    first = store.publish(b"petals", "flowers", by="ann")

    for again in (store, opened(uri)):
        second = again.publish(b"petals", "flowers", by="bob")
        assert (second.release, second.generation, second.created) == (first.release, 1, False)
    assert store.catalog().generation == 1
    store.publish(b"other", "flowers", by="ann")
    back = store.publish(b"petals", "flowers", by="ann")
    assert (back.release.number, back.generation, back.created) == (1, 3, False)
    assert resolve(store.catalog(), "flowers").number == 1


def test_a_stale_writer_is_refused(uri):
    """`if_match` holds against what others wrote meanwhile."""
    store, other = opened(uri), opened(uri)
    seen = store.publish(b"one", "flowers", by="ann").generation
    other.publish(b"two", "flowers", by="bob")

    with pytest.raises(PreconditionFailedError):
        store.activate("flowers", 1, by="ann", if_match=seen)
    assert store.activate("flowers", 1, by="ann", if_match=2) == 3


def test_concurrent_writers_lose_nothing(uri):
    """Stores that race for every number publish all their releases, in one order, without a gap."""
    tasks = ["shared", "shared", "own-0", "own-1"]

    def write(n: int) -> None:
        store = opened(uri)
        for i in range(5):
            store.publish(f"{n} {i}".encode(), tasks[n], by=f"writer {n}")

    with ThreadPoolExecutor(len(tasks)) as pool:
        list(pool.map(write, range(len(tasks))))

    store = opened(uri)
    catalog = store.catalog()
    assert catalog.generation == 20
    assert {n: len(t.releases) for n, t in catalog.tasks.items()} == {
        "shared": 10,
        "own-0": 5,
        "own-1": 5,
    }
    assert {r.digest for t in catalog.tasks.values() for r in t.releases} == {
        hashlib.sha256(f"{n} {i}".encode()).hexdigest() for n in range(4) for i in range(5)
    }
    catalog.check()
    assert store.verify().faults == ()


def test_threads_may_share_a_store(memory):
    """One object, many threads: nothing is lost and no number is given twice."""
    store = opened(memory)

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: store.publish(b"%d" % n, "flowers", by="ann"), range(40)))

    assert sorted(p.release.number for p in done) == [*range(1, 41)]
    assert sorted(p.generation for p in done) == [*range(1, 41)]


def test_processes_may_share_a_folder(tmp_path):
    """Two processes publish into one folder, and every release of both is there."""
    script = (
        "import sys; from adapters_store.store import AdapterStore\n"
        "store = AdapterStore.open(sys.argv[1], sys.argv[2])\n"
        "for i in range(10): store.publish(f'{sys.argv[3]} {i}'.encode(), 'shared', by='p')\n"
    )
    run = [sys.executable, "-c", script, str(tmp_path), BACKBONE]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    writers = [subprocess.Popen([*run, name], env=env) for name in "ab"]

    assert [w.wait(30) for w in writers] == [0, 0]
    store = opened(str(tmp_path))
    assert [r.number for r in store.catalog().tasks["shared"].releases] == [*range(1, 21)]
    assert store.verify().faults == ()


class Late(Objects):
    """Appends to the log, and then loses the answer."""

    def put_new(self, path: str, data: bytes) -> bool:
        written = super().put_new(path, data)
        if path.startswith("log/"):
            raise StoreUnavailableError(self.uri, "the answer was lost")
        return written


def test_an_event_that_was_written_after_all_is_recognised(uri):
    """A lost answer is settled by reading the entry: one release, not two, and no error."""
    store = opened(uri, Late)

    assert store.publish(b"one", "flowers", by="ann").created
    assert store.activate("flowers", 1, by="ann", if_match=1) == 2
    assert opened(uri).catalog().generation == 2


class Raced(Objects):
    """Another writer is faster, and then the answer is lost."""

    rivals = 2

    def put_new(self, path: str, data: bytes) -> bool:
        if path.startswith("log/") and self.rivals:
            self.rivals -= 1
            opened(self.uri).publish(b"rival %d" % self.rivals, "flowers", by="rival")
            raise StoreUnavailableError(self.uri, "the answer was lost")
        return super().put_new(path, data)


def test_an_event_that_lost_its_number_is_not_taken_for_written(uri):
    """A lost answer while another event has the number leads to the next number."""
    done = opened(uri, Raced).publish(b"ours", "flowers", by="ann")

    assert (done.release.number, done.generation, done.created) == (3, 3, True)


def test_preconditions_are_checked_again_after_a_lost_race(uri):
    """What was true of the old catalog does not let an event into the new one."""
    with pytest.raises(PreconditionFailedError):
        opened(uri, Raced).publish(b"ours", "flowers", by="ann", if_match=0)


class Torn(Objects):
    """Dies between blob and event."""

    def put_new(self, path: str, data: bytes) -> bool:
        if path.startswith("log/"):
            raise KeyboardInterrupt
        return super().put_new(path, data)


def test_a_crash_between_blob_and_event_leaves_nothing_to_see(uri):
    """The blob alone is no release; publishing again makes it one."""
    with pytest.raises(KeyboardInterrupt):
        opened(uri, Torn).publish(b"one", "flowers", by="ann")

    store = opened(uri)
    assert store.catalog() == Catalog()
    assert store.verify().faults == ()
    assert store.publish(b"one", "flowers", by="ann").release.number == 1


def test_a_reader_goes_up_to_what_it_understands(uri):
    """Before an unknown kind it stops, keeps what it has and says why; a writer refuses."""
    store = opened(uri)
    store.publish(b"one", "flowers", by="ann")
    objects = Objects.open(uri, FOLDER)
    objects.put("log/00000000000000000002.json", b'{"format":1,"kind":"merge"}')

    caught = store.catch_up(Catalog())

    assert caught.catalog.generation == 1
    assert caught.blocked is not None
    assert (caught.blocked.generation, caught.blocked.reason) == (2, "unknown kind 'merge'")
    for blocked in (store.catalog, lambda: store.publish(b"two", "flowers", by="ann"), store.gc):
        with pytest.raises(EventUnknownError):
            blocked()
    assert "log entry 2" in store.verify().faults[0]


def test_a_long_log_is_read_whole(uri, monkeypatch):
    """From nothing, from the middle and through a snapshot, a reader gets the same catalog."""
    monkeypatch.setattr("adapters_store.log.SNAPSHOT_EVERY", LONG)
    store = opened(uri)
    store.publish(b"one", "flowers", by="ann")
    store.publish(b"two", "flowers", by="ann")
    log = Log(Objects.open(uri, FOLDER))
    first = log.read(1)[0][0]
    copies = [first.model_copy(update={"generation": n, "id": str(n)}) for n in range(3, LONG)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(log.append, copies))
    middle = store.catalog()

    assert store.activate("flowers", 1, by="ann") == LONG
    assert store.activate("flowers", 2, by="ann") == LONG + 1

    assert log.numbers("snapshots") == ([LONG], [])
    assert store.verify().faults == ()
    assert store.catch_up(middle).catalog == opened(uri).catalog() == store.catalog()
    objects = Objects.open(uri, FOLDER)
    objects.put(f"snapshots/{LONG:020d}.json", b'{"format":1}')
    assert opened(uri).catalog() == store.catalog(), "a broken snapshot is ignored"
    objects.put(f"snapshots/{9999:020d}.json", b"{}")
    objects.put("snapshots/notes.txt", b"")
    assert len(store.verify().faults) == 3


class Full(Objects):
    """Takes no snapshots."""

    def put_new(self, path: str, data: bytes) -> bool:
        if path.startswith("snapshots/"):
            raise StoreUnavailableError(self.uri, "full")
        return super().put_new(path, data)


def test_a_snapshot_that_cannot_be_written_is_no_failure(memory, caplog):
    """Publishing succeeds, and a warning says what happened."""
    log = Log(Full.open(memory, FOLDER))

    log.keep_snapshot(Catalog(generation=SNAPSHOT_EVERY))

    assert [record.message for record in caplog.records] == ["snapshot not written"]


def test_backbones_do_not_see_each_other(uri):
    """Each has its own log; the listing names them all."""
    other = "f" * 64
    opened(uri).publish(b"one", "flowers", by="ann")
    store = AdapterStore.open(uri, other[:16])

    assert store.catalog() == Catalog()
    assert AdapterStore.open(uri, other).publish(b"two", "flowers", by="ann").generation == 1
    assert list_backbones(uri) == (FOLDER, other[:16])


def test_an_empty_store_is_empty(uri):
    """Nothing is there, and nothing is wrong."""
    store = opened(uri)

    assert (store.catalog(), store.history("flowers")) == (Catalog(), ())
    assert (store.verify().events, store.verify().faults) == (0, ())
    assert store.gc().deleted == ()
    assert list_backbones(uri) == ()


@pytest.mark.parametrize("backbone", ["", "xyz", "a" * 15, "a" * 17, "A" * 16, "../" + "a" * 13])
def test_what_is_no_digest_opens_nothing(memory, backbone):
    """A backbone is given by its digest and by nothing else."""
    with pytest.raises(NameInvalidError):
        AdapterStore.open(memory, backbone)


def test_an_author_may_be_called_anything(memory):
    """Text that JSON cannot carry is replaced rather than refused."""
    store = opened(memory)
    store.publish(b"one", "flowers", by="ann\ud800", why="x" * 10**6)

    release = resolve(opened(memory).catalog(), "flowers")
    assert (release.by, len(release.why)) == ("ann?", 1000)
