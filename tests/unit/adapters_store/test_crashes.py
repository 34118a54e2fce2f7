"""Every operation of the store, with every one of its writes going wrong in every way.

A write goes wrong as a process is killed (before, during, after it) or as a network fails: refused,
done but answered with an error, done long after it was given up.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import product
from pathlib import Path

import pytest

from adapters_store.catalog import Catalog, fold_all
from adapters_store.copying import copy_releases, plan_copy
from adapters_store.errors import (
    ReleaseNotFoundError,
    StoreUnavailableError,
    TaskNotFoundError,
)
from adapters_store.log import SNAPSHOT_EVERY, Log
from adapters_store.objects import Objects
from adapters_store.store import AdapterStore

FOLDER = "0123456789abcdef"
KILLED = ["before", "during", "after"]
UNANSWERED = ["refused", "lost answer", "late", "very late"]


class Killed(BaseException):
    """The process is gone."""


class Later(Objects):
    """Its clock is days ahead of all it kept so far."""

    hours = 25

    def now(self) -> datetime:
        return super().now() + timedelta(hours=self.hours)


class MuchLater(Later):
    """A day after that."""

    hours = 50


class Faulty(Later):
    """The write number `at`, counted from 1, goes wrong; how is said by `how`."""

    at, how = 0, ""
    writes, dead = 0, False
    struck = ""  # the path whose write went wrong
    late: Callable[[], object] | None = None

    def put(self, path: str, data: bytes) -> None:
        self._write(partial(super().put, path, data), path, data)

    def put_new(self, path: str, data: bytes) -> bool:
        return self._write(partial(super().put_new, path, data), path, data)

    def copy(self, path: str, to: str) -> bool:
        return self._write(partial(super().copy, path, to))

    def delete(self, path: str) -> None:
        self._write(partial(super().delete, path))

    def arrive(self) -> None:
        """What was given up arrives after all."""
        if self.late:
            self.late()
            self.late = None

    def _write(self, act: Callable[[], object], path: str = "", data: bytes = b"") -> object:
        if self.dead:
            raise Killed
        self.writes += 1
        if self.writes != self.at:
            if self.how == "late":
                self.arrive()
            return act()
        self.struck = path
        if self.how == "during" and self._local and path:
            half = Path(self._local, f"{path}#1234567")
            half.parent.mkdir(parents=True, exist_ok=True)
            half.write_bytes(data[: len(data) // 2])
        if self.how in ("after", "lost answer"):
            act()
        if self.how in KILLED:
            self.dead = True
            raise Killed
        self.late = act if "late" in self.how else None
        raise StoreUnavailableError(self.uri, self.how)


def opened(uri: str, kind: type[Objects] = Objects) -> AdapterStore:
    return AdapterStore(kind.open(uri, FOLDER))


@cache
def world() -> dict[str, bytes]:
    """What every operation begins with: two tasks, an alias, a retired release, an orphan."""
    uri = f"memory://{uuid.uuid4()}"
    store, objects = opened(uri), Objects.open(uri, FOLDER)
    for data in (b"one", b"two", b"three", b"four"):
        store.publish(data, "flowers", by="ann", activate=data in {b"one", b"two"})
    store.alias("flowers", "stable", 1, by="ann")
    store.retire("flowers", 4, by="ann")
    store.publish(b"oak", "trees", by="ann")
    objects.put(f"blobs/sha256/{hashlib.sha256(b'orphan').hexdigest()}.safetensors", b"orphan")
    return {stat.path: objects.get(stat.path, 10**6) for stat in objects.under("")}


@cache
def staging() -> AdapterStore:
    """Where releases are copied from."""
    store = opened(f"memory://{uuid.uuid4()}")
    for data in (b"three", b"five", b"six"):
        store.publish(data, "flowers", by="bob")
    store.activate("flowers", 2, by="bob")
    return store


def copied(store: AdapterStore) -> None:
    steps = plan_copy(staging().catalog(), ["flowers"], whole=True)
    assert [c.published.release.digest for c in copy_releases(staging(), store, steps, by="x")]


OPERATIONS: dict[str, Callable[[AdapterStore], object]] = {
    "publish a new task": lambda s: s.publish(b"leaf", "ferns", by="x"),
    "publish a release": lambda s: s.publish(b"new", "flowers", by="x"),
    "publish without activation": lambda s: s.publish(b"new", "flowers", by="x", activate=False),
    "publish what is there": lambda s: s.publish(b"one", "flowers", by="x"),
    "publish what was retired": lambda s: s.publish(b"four", "flowers", by="x"),
    "activate": lambda s: s.activate("flowers", 1, by="x"),
    "set an alias": lambda s: s.alias("flowers", "next", 3, by="x"),
    "move an alias": lambda s: s.alias("flowers", "stable", 2, by="x"),
    "take an alias away": lambda s: s.alias("flowers", "stable", None, by="x"),
    "split": lambda s: s.split("flowers", {1: 9, 2: 1}, by="x"),
    "retire a release": lambda s: s.retire("flowers", 3, by="x"),
    "retire a task": lambda s: s.retire("flowers", by="x"),
    "collect": lambda s: s.gc(),
    "copy": copied,
}


def begin(uri: str) -> None:
    objects = Objects.open(uri, FOLDER)
    for path, data in world().items():
        objects.put(path, data)


def meaning(catalog: Catalog) -> dict[str, object]:
    """What a catalog says, without who said it when."""
    return {
        name: (
            [(r.number, r.digest, r.retired) for r in state.releases],
            state.active,
            state.aliases,
            state.split,
            state.retired,
        )
        for name, state in catalog.tasks.items()
    }


@cache
def way(operation: str) -> list[dict[str, object]]:
    """What a reader may see: the state before, after each event, and (last) at the end."""
    uri = f"memory://{uuid.uuid4()}"
    begin(uri)
    start = opened(uri).catalog()
    OPERATIONS[operation](opened(uri, Later))
    events, _ = Log(Objects.open(uri, FOLDER)).read(start.generation)
    return [meaning(fold_all(start, events[:n])) for n in range(len(events) + 1)]


def look(uri: str, operation: str) -> dict[str, object]:
    """What a fresh reader sees, once it is known to be allowed and whole."""
    store = opened(uri)
    catalog = store.catalog()
    catalog.check()
    assert meaning(catalog) in way(operation)
    assert store.verify().faults == ()
    return meaning(catalog)


def converge(uri: str, operation: str) -> None:
    """Doing it again ends where it should have; the collector then leaves only what is named."""
    before = look(uri, operation)
    try:
        OPERATIONS[operation](opened(uri, Later))
    except (TaskNotFoundError, ReleaseNotFoundError):
        assert before == way(operation)[-1], "it refuses only because it is done already"

    opened(uri, MuchLater).gc()

    assert look(uri, operation) == way(operation)[-1]
    objects = Objects.open(uri, FOLDER)
    catalog = opened(uri).catalog()
    live = {r.digest for t in catalog.tasks.values() for r in t.releases if not r.retired}
    kept = {s.path for s in objects.under("") if not s.path.startswith(("log/", "snapshots/"))}
    assert kept == {f"blobs/sha256/{digest}.safetensors" for digest in live}
    assert not objects._local or not list(objects._local.rglob("*#*"))


def faults(uri: str, operation: str, how: str) -> Iterator[tuple[str, Faulty]]:
    """One store for each write of the operation, at which it went wrong."""
    for at in range(1, 100):
        place = f"{uri}/{at}"
        begin(place)
        objects = Faulty.open(place, FOLDER)
        objects.at, objects.how = at, how
        try:
            OPERATIONS[operation](AdapterStore(objects))
        except Killed:
            pass
        except StoreUnavailableError:
            assert not objects.struck.startswith(("log/", "snapshots/")), "settled by reading"
        else:
            assert meaning(opened(place).catalog()) == way(operation)[-1], "it said it was done"
        if objects.late:
            look(place, operation)
        if objects.writes < at:
            assert at > 3, "an operation has several writes"
            return
        yield place, objects


@pytest.fixture(autouse=True)
def _snapshot_is_due(monkeypatch):
    """The first event of every operation is one after which a snapshot is written."""
    monkeypatch.setattr("adapters_store.log.SNAPSHOT_EVERY", 8)


def test_the_operations_begin_where_a_snapshot_is_near():
    """So that writing it is one of the writes that fail."""
    uri = f"memory://{uuid.uuid4()}"
    begin(uri)

    opened(uri).activate("flowers", 1, by="x")

    assert Log(Objects.open(uri, FOLDER)).numbers("snapshots") == ([8], [])


def cases() -> Iterator[object]:
    """Everything in memory, and on the others what differs there; most of that is slow."""
    hows = {
        "memory": ("before", "after", *UNANSWERED),
        "file": ("during", "after"),
        "s3": ("after", "lost answer", "late"),
    }
    fast = {
        *product(["memory"], OPERATIONS, ["lost answer"]),
        *product(["file"], ["publish a release", "collect", "copy"], ["during"]),
    }
    for kind, operation in product(hows, OPERATIONS):
        for how in hows[kind]:
            case = (kind, operation, how)
            yield pytest.param(*case, marks=() if case in fast else pytest.mark.slow)


@pytest.mark.parametrize(("uri", "operation", "how"), list(cases()), indirect=["uri"])
def test_whichever_write_goes_wrong_the_store_is_whole(uri, operation, how):
    """A reader sees the state before or after, and doing it again ends in the state after.

    What is left over disturbs nobody and goes away.
    """
    for place, objects in faults(uri, operation, how):
        objects.arrive()
        converge(place, operation)


@pytest.mark.parametrize("how", ["before", "after", "lost answer"])
def test_the_256th_event_survives_the_same(how, monkeypatch):
    """The real distance between snapshots."""
    monkeypatch.undo()
    uri = f"memory://{uuid.uuid4()}"
    for at in range(1, 100):
        place = f"{uri}/{at}"
        begin(place)
        log = Log(Objects.open(place, FOLDER))
        last = log.read(6)[0][0]
        for n in range(8, SNAPSHOT_EVERY):
            log.append(last.model_copy(update={"generation": n, "id": str(n)}))
        objects = Faulty.open(place, FOLDER)
        objects.at, objects.how = at, how
        with suppress(Killed, StoreUnavailableError):
            AdapterStore(objects).publish(b"new", "flowers", by="x")
        objects.arrive()
        look(place, "publish a release")
        if objects.writes < at:
            assert log.numbers("snapshots") == ([SNAPSHOT_EVERY], [])
            return
