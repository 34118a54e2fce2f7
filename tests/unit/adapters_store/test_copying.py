"""Copying: which releases go over, in which order, and what the target says of them."""

import uuid

import pytest

from adapters_store.catalog import resolve
from adapters_store.copying import copy_releases, plan_copy
from adapters_store.errors import ReleaseNotFoundError, StoreCorruptError, TaskNotFoundError
from adapters_store.objects import Objects
from adapters_store.store import AdapterStore

FOLDER = "0123456789abcdef"


def opened(uri: str) -> AdapterStore:
    return AdapterStore.open(uri, FOLDER)


@pytest.fixture
def source():
    """flowers@1 is retired, @2 active, @3 aliased; nothing of `idle` is active."""
    store = opened(f"memory://{uuid.uuid4()}")
    for data in (b"one", b"two", b"three"):
        store.publish(data, "flowers", by="ann", why=f"it is {data.decode()}")
    store.activate("flowers", 2, by="ann")
    store.alias("flowers", "next", 3, by="ann")
    store.retire("flowers", 1, by="ann")
    store.publish(b"idle", "idle", by="ann", activate=False)
    return store


def planned(source: AdapterStore, *refs: str, **how: bool) -> list[tuple[str, int, bool]]:
    steps = plan_copy(source.catalog(), refs, **how)
    return [(s.release.task, s.release.number, s.activate) for s in steps]


def copy(source: AdapterStore, target: AdapterStore, *refs: str, **how: bool) -> list[bool]:
    """Whether each step made a release."""
    steps = plan_copy(source.catalog(), refs, **how)
    done = copy_releases(source, target, steps, by="cy", why="for the fair")
    return [copied.published.created for copied in done]


def test_the_plan_follows_the_references(source):
    """One release each, active unless told otherwise; or all that live, the meant one last."""
    assert planned(source, "flowers") == [("flowers", 2, True)]
    assert planned(source, "flowers@3") == planned(source, "flowers@next") == [("flowers", 3, True)]
    assert planned(source, "flowers", activate=False) == [("flowers", 2, False)]
    assert planned(source, "flowers", whole=True) == [
        ("flowers", 2, False),
        ("flowers", 3, False),
        ("flowers", 2, True),
    ]
    assert planned(source, "flowers@3", whole=True) == [("flowers", 2, False), ("flowers", 3, True)]
    assert planned(source, "flowers", "idle", whole=True, activate=False) == [
        ("flowers", 2, False),
        ("flowers", 3, False),
        ("idle", 1, False),
    ]


@pytest.mark.parametrize(
    ("ref", "error"),
    [
        ("trees", TaskNotFoundError),
        ("flowers@1", ReleaseNotFoundError),
        ("flowers@stable", ReleaseNotFoundError),
        ("idle", ReleaseNotFoundError),
    ],
)
def test_what_is_not_there_is_not_planned(source, ref, error):
    """Refused before anything is copied, whatever else was named."""
    with pytest.raises(error):
        plan_copy(source.catalog(), ["flowers", ref])


def test_the_target_numbers_and_signs_for_itself(source, uri):
    """Bytes and order are the source's; numbers, author and time are the target's."""
    target = opened(uri)
    target.publish(b"zero", "flowers", by="bob")

    assert copy(source, target, "flowers", whole=True) == [True, True, False]

    state = target.catalog().tasks["flowers"]
    assert [target.blob(r.digest) for r in state.releases] == [b"zero", b"two", b"three"]
    assert resolve(target.catalog(), "flowers").number == 2
    assert (state.releases[1].by, state.releases[1].why) == (
        "cy",
        f"copied from {source.uri} flowers@2 by ann: for the fair",
    )
    assert (state.aliases, state.split) == ({}, {})
    assert target.verify().faults == ()


def test_copying_again_changes_nothing(source, memory):
    """What the target has is left alone; what it has lost of its own meaning is set again."""
    target = opened(memory)
    copy(source, target, "flowers", whole=True)
    generation = target.catalog().generation

    assert copy(source, target, "flowers", whole=True) == [False] * 3
    assert target.catalog().generation == generation
    target.activate("flowers", 2, by="bob")
    assert copy(source, target, "flowers", activate=False) == [False]
    assert resolve(target.catalog(), "flowers").number == 2, "the target's own choice"
    assert copy(source, target, "flowers") == [False]
    assert resolve(target.catalog(), "flowers").number == 1


def test_damage_is_not_copied(source, memory):
    """Bytes that contradict their digest end the copy; what went before stays whole."""
    digest = resolve(source.catalog(), "flowers@3").digest
    Objects.open(source.uri, FOLDER).put(f"blobs/sha256/{digest}.safetensors", b"other")
    target = opened(memory)

    with pytest.raises(StoreCorruptError):
        copy(source, target, "flowers", whole=True)

    assert [r.number for r in target.catalog().tasks["flowers"].releases] == [1]
    assert target.verify().faults == ()


def test_where_it_came_from_is_said_without_secrets(bucket, memory):
    """What an address may hold of keys and signatures does not get into the log."""
    plain = f"{bucket}/{uuid.uuid4()}"
    opened(plain).publish(b"one", "flowers", by="ann")
    key = plain.replace("://", "://key:secret@")
    source = AdapterStore(Objects(Objects.open(plain, FOLDER)._raw, f"{key}?signed=x#y", FOLDER))

    copy(source, opened(memory), "flowers")

    (event,) = opened(memory).history("flowers")
    assert event.why == f"copied from {plain} flowers@1 by ann: for the fair"
