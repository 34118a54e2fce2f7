"""The catalog: folding, resolving and snapshots."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.catalog import Catalog, fold, fold_all, resolve
from adapters_store.errors import ReleaseNotFoundError, StoreCorruptError, TaskNotFoundError
from adapters_store.events import Activate, Alias, Publish, Retire, Split
from adapters_store.snapshot import catalog_from_json, catalog_to_json


def events(*changes):
    """Events in order from (model, fields) pairs; generations are counted here."""
    return [
        model(id="x", generation=n, at="", by="ann", why="", **{"task": "a", **fields})
        for n, (model, fields) in enumerate(changes, 1)
    ]


def publish(release: int, *, activate: bool = True, task: str = "a"):
    digest = f"{release:064x}"
    return Publish, {
        "task": task,
        "release": release,
        "digest": digest,
        "bytes": 10,
        "activate": activate,
    }


def folded(*changes) -> Catalog:
    return fold_all(Catalog(), events(*changes))


def test_folding_does_not_change_the_catalog_before():
    """Readers keep the catalog that they took; tasks that an event does not name are shared."""
    before = folded(publish(1), publish(1, task="b"))

    after = fold(before, events(publish(1), publish(1), publish(2))[2])

    assert resolve(before, "a").number == 1
    assert resolve(after, "a").number == 2
    assert after.tasks["b"] is before.tasks["b"]
    assert (after.generation, after.tasks["a"].generation, after.tasks["b"].generation) == (3, 3, 2)


def test_activating_ends_a_split():
    """So does publishing with activation; publishing without it does not."""
    split = (Split, {"weights": {1: 1, 2: 1}})
    two = (publish(1), publish(2))

    assert folded(*two, split).tasks["a"].split == {1: 1, 2: 1}
    assert folded(*two, split, (Activate, {"release": 1})).tasks["a"].split == {}
    assert folded(*two, split, publish(3)).tasks["a"].split == {}
    assert folded(*two, split, publish(3, activate=False)).tasks["a"].split == {1: 1, 2: 1}


def test_a_reference_names_the_active_release_a_number_or_an_alias():
    """`a` is the active release, `a@1` that number, `a@stable` what the alias points at."""
    catalog = folded(publish(1), publish(2), (Alias, {"alias": "stable", "release": 1}))

    assert [resolve(catalog, ref).number for ref in ("a", "a@1", "a@2", "a@stable")] == [2, 1, 2, 1]


@pytest.mark.parametrize(
    "ref",
    ["a@0", "a@3", "a@01", "a@-1", "a@", "a@beta", "a@1@1", "a@\u0661", "a@1\n", "a@" + "9" * 9999],
)
def test_what_the_task_does_not_have_is_not_found(ref):
    """Numbers have one spelling, and nothing else is taken for one."""
    with pytest.raises(ReleaseNotFoundError):
        resolve(folded(publish(1), publish(2)), ref)


@pytest.mark.parametrize("ref", ["b", "", "@1", "A", "a\n", "b@1"])
def test_an_unknown_task_is_not_found(ref):
    """An unknown task is never answered with another one."""
    with pytest.raises(TaskNotFoundError):
        resolve(folded(publish(1)), ref)


def test_a_retired_task_is_gone_until_it_is_published_again():
    """Its releases and aliases do not come back with it."""
    changes = [publish(1), (Alias, {"alias": "stable", "release": 1}), (Retire, {"release": None})]
    gone, back = folded(*changes), folded(*changes, publish(2))

    for ref in ("a", "a@1", "a@stable"):
        with pytest.raises(TaskNotFoundError):
            resolve(gone, ref)
    assert resolve(back, "a").number == 2
    for ref in ("a@1", "a@stable"):
        with pytest.raises(ReleaseNotFoundError):
            resolve(back, ref)


def test_a_task_without_an_active_release_says_so():
    """A release published without activation answers only by its number."""
    catalog = folded(publish(1, activate=False))

    with pytest.raises(ReleaseNotFoundError, match="'active'"):
        resolve(catalog, "a")
    assert resolve(catalog, "a@1").number == 1


def test_a_split_is_sticky_and_in_proportion():
    """A key keeps its release, whatever the order of the weights; shares follow the weights."""
    two = (publish(1), publish(2))
    catalog = folded(*two, (Split, {"weights": {1: 90, 2: 10}}))
    turned = folded(*two, (Split, {"weights": {2: 10, 1: 90}}))
    keys = [f"request {n}" for n in range(5000)]

    picks = [resolve(catalog, "a", key).number for key in keys]

    assert picks == [resolve(turned, "a", key).number for key in keys]
    assert 0.08 < picks.count(2) / len(picks) < 0.12
    assert resolve(catalog, "a").number == 2, "without a key the active release answers"
    assert resolve(catalog, "a@1", keys[picks.index(2)]).number == 1


def test_a_split_is_the_same_in_every_version():
    """These keys went to these releases once, so they always will."""
    catalog = folded(publish(1), publish(2), (Split, {"weights": {1: 1, 2: 1}}))

    picks = [resolve(catalog, "a", str(n)).number for n in range(12)]

    assert picks == [1, 1, 1, 1, 1, 1, 2, 1, 1, 2, 1, 1]


def test_a_growing_canary_keeps_those_it_has():
    """When the newer release's share grows, no key moves away from it."""
    two = (publish(1), publish(2))
    small = folded(*two, (Split, {"weights": {1: 90, 2: 10}}))
    large = folded(*two, (Split, {"weights": {1: 50, 2: 50}}))
    keys = [str(n) for n in range(1000)]

    assert all(
        resolve(large, "a", k).number == 2 for k in keys if resolve(small, "a", k).number == 2
    )


def test_ten_thousand_tasks_fold_in_seconds():
    """Folding costs the events, not events times tasks."""
    made = [
        event
        for n in range(20_000)
        for event in [
            Activate(
                id="x",
                generation=n + 10_001,
                at="",
                by="",
                why="",
                task=f"t{n % 10_000}",
                release=1,
            )
        ]
    ]
    first = events(*(publish(1, task=f"t{n}") for n in range(10_000)))
    start = time.perf_counter()

    catalog = fold_all(Catalog(), first + made)

    assert time.perf_counter() - start < 5
    assert (len(catalog.tasks), catalog.generation) == (10_000, 30_000)


number = st.integers(1, 5)
changes = st.one_of(
    st.builds(publish, number, activate=st.booleans(), task=st.sampled_from("ab")),
    st.tuples(st.just(Activate), st.fixed_dictionaries({"release": number})),
    st.tuples(
        st.just(Alias),
        st.fixed_dictionaries({"alias": st.sampled_from("xy"), "release": st.none() | number}),
    ),
    st.tuples(
        st.just(Split),
        st.fixed_dictionaries({"weights": st.dictionaries(number, number, min_size=1)}),
    ),
    st.tuples(st.just(Retire), st.fixed_dictionaries({"release": st.none() | number})),
)


@given(st.lists(changes, max_size=30), st.integers(0, 30))
def test_any_log_folds_to_a_sound_catalog(history, middle):
    """Even events that no writer would have let in; through a snapshot, the result is the same."""
    log = events(*history)
    at_once = fold_all(Catalog(), log)
    one_by_one = Catalog()
    for event in log:
        one_by_one = fold(one_by_one, event)
    restored = catalog_from_json(catalog_to_json(fold_all(Catalog(), log[:middle])))

    at_once.check()
    assert at_once == one_by_one == fold_all(restored, log[middle:])
    assert at_once.generation == len(log)


SOUND = json.loads(
    catalog_to_json(
        folded(publish(1), publish(2), (Alias, {"alias": "x", "release": 1}), publish(1, task="b"))
    )
)


def broken(path: str, value: object) -> bytes:
    """The sound snapshot with one value replaced."""
    snapshot = json.loads(json.dumps(SOUND))
    *way, last = [int(p) if p.isdigit() else p for p in path.split("/")]
    place = snapshot
    for step in way:
        place = place[step]
    place[last] = value
    return json.dumps(snapshot).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 2),
        ("more", 1),
        ("catalog/more", 1),
        ("catalog/generation", 3),
        ("catalog/tasks/a/name", "c"),
        ("catalog/tasks/a/active", 3),
        ("catalog/tasks/a/active", "2"),
        ("catalog/tasks/a/aliases/x", 7),
        ("catalog/tasks/a/split", {"1": 0}),
        ("catalog/tasks/a/split", {"9": 1}),
        ("catalog/tasks/a/retired", True),
        ("catalog/tasks/a/releases", []),
        ("catalog/tasks/a/releases/0/number", 2),
        ("catalog/tasks/a/releases/0/task", "b"),
        ("catalog/tasks/a/releases/0/generation", 3),
        ("catalog/tasks/a/releases/1/retired", True),
    ],
)
def test_a_broken_snapshot_is_refused(path, value):
    """A catalog that no log folds to is not taken for one."""
    assert catalog_from_json(json.dumps(SOUND).encode()).generation == 4

    with pytest.raises(StoreCorruptError):
        catalog_from_json(broken(path, value))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"{" * 9999])
def test_what_is_no_snapshot_is_refused(data):
    """Bytes that hold no catalog are one clear error."""
    with pytest.raises(StoreCorruptError, match="snapshot"):
        catalog_from_json(data)
