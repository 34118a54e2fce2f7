"""Proposals: every precondition, one at a time, and all of them in any order."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.catalog import Catalog, Release, fold, resolve
from adapters_store.errors import (
    CatalogError,
    NameInvalidError,
    PreconditionFailedError,
    ReleaseInUseError,
    ReleaseNotFoundError,
    SplitInvalidError,
    TaskNotFoundError,
)
from adapters_store.events import Activate, Publish
from adapters_store.proposals import (
    Stamp,
    propose_activate,
    propose_alias,
    propose_publish,
    propose_retire,
    propose_split,
)

STAMP = Stamp(id="1b0c", at="2026-01-01T00:00:00+00:00", by="ann", why="because")


def digest(number: int) -> str:
    return f"{number:064x}"


def published(*digests: int, activate: bool = True) -> Catalog:
    """One task, `a`, with one release of each digest."""
    catalog = Catalog()
    for number in digests:
        event = propose_publish(catalog, STAMP, "a", digest(number), 10, activate=activate)
        assert isinstance(event, Publish)
        catalog = fold(catalog, event)
    return catalog


def test_the_first_release_is_number_one():
    """The event carries the next generation, the next number, and who, when and why."""
    event = propose_publish(Catalog(), STAMP, "a", digest(1), 10, activate=True)

    assert isinstance(event, Publish)
    assert (event.generation, event.release, event.bytes) == (1, 1, 10)
    assert (event.id, event.at, event.by, event.why) == (STAMP.id, STAMP.at, "ann", "because")


@pytest.mark.parametrize("name", ["", "a\n", "A", "a/b", "a@1", "-a", "a-", "ä", "a" * 65, "a b"])
def test_a_name_that_breaks_the_rule_is_refused(name):
    """Nothing is proposed for what can never be a task."""
    with pytest.raises(NameInvalidError):
        propose_publish(Catalog(), STAMP, name, digest(1), 10, activate=True)


def test_publishing_the_same_bytes_again_changes_nothing():
    """Bytes that are the active release already are answered with that release."""
    catalog = published(1, 2)

    same = propose_publish(catalog, STAMP, "a", digest(2), 10, activate=True)

    assert same == resolve(catalog, "a@2")


def test_publishing_old_bytes_activates_their_release():
    """Bytes of a live release that is not active become an activation, if that is wanted."""
    catalog = published(1, 2)

    wanted = propose_publish(catalog, STAMP, "a", digest(1), 10, activate=True)
    unwanted = propose_publish(catalog, STAMP, "a", digest(1), 10, activate=False)

    assert isinstance(wanted, Activate)
    assert wanted.release == 1
    assert unwanted == resolve(catalog, "a@1")


def test_publishing_the_active_bytes_ends_a_split():
    """What was published to be active then answers every request."""
    catalog = published(1, 2)
    catalog = fold(catalog, propose_split(catalog, STAMP, "a", {1: 1, 2: 1}))

    assert isinstance(propose_publish(catalog, STAMP, "a", digest(2), 9, activate=True), Activate)


def test_a_retired_release_number_is_never_given_again():
    """Neither after retiring the newest release nor after retiring the whole task."""
    catalog = published(1, 2)
    catalog = fold(catalog, propose_activate(catalog, STAMP, "a", 1))
    catalog = fold(catalog, propose_retire(catalog, STAMP, "a", 2))

    again = propose_publish(catalog, STAMP, "a", digest(2), 10, activate=True)

    assert isinstance(again, Publish)
    assert again.release == 3
    catalog = fold(catalog, propose_retire(catalog, STAMP, "a", None))
    revived = propose_publish(catalog, STAMP, "a", digest(1), 10, activate=True)
    assert isinstance(revived, Publish)
    assert revived.release == 3
    assert resolve(fold(catalog, revived), "a").number == 3


def test_a_release_in_use_is_not_retired():
    """The error says what still points at it: activation, aliases, a split."""
    catalog = published(1, 2)
    catalog = fold(catalog, propose_alias(catalog, STAMP, "a", "stable", 2))
    catalog = fold(catalog, propose_split(catalog, STAMP, "a", {2: 1}))

    with pytest.raises(ReleaseInUseError, match="active, alias stable, split") as caught:
        propose_retire(catalog, STAMP, "a", 2)

    assert caught.value.uses == ("active", "alias stable", "split")
    assert pickle.loads(pickle.dumps(caught.value)).uses == caught.value.uses
    assert propose_retire(catalog, STAMP, "a", 1).release == 1
    assert propose_retire(catalog, STAMP, "a", None).release is None


def test_what_does_not_exist_cannot_be_pointed_at():
    """Unknown and retired tasks, releases and aliases are errors of their own."""
    catalog = published(1, 2)
    catalog = fold(catalog, propose_retire(catalog, STAMP, "a", 1))

    with pytest.raises(TaskNotFoundError):
        propose_activate(catalog, STAMP, "b", 1)
    for release in (0, 1, 3):
        with pytest.raises(ReleaseNotFoundError):
            propose_activate(catalog, STAMP, "a", release)
        with pytest.raises(ReleaseNotFoundError):
            propose_alias(catalog, STAMP, "a", "stable", release)
        with pytest.raises(ReleaseNotFoundError):
            propose_split(catalog, STAMP, "a", {2: 1, release: 1})
        with pytest.raises(ReleaseNotFoundError):
            propose_retire(catalog, STAMP, "a", release)
    with pytest.raises(ReleaseNotFoundError, match="'stable'"):
        propose_alias(catalog, STAMP, "a", "stable", None)
    with pytest.raises(NameInvalidError):
        propose_alias(catalog, STAMP, "a", "7", 2)
    gone = fold(catalog, propose_retire(catalog, STAMP, "a", None))
    with pytest.raises(TaskNotFoundError):
        propose_retire(gone, STAMP, "a", None)


@pytest.mark.parametrize("weights", [{}, {1: 0}, {1: -1}, {1: True}, {1: 0.5}, {1: 2**31}])
def test_a_split_has_positive_whole_weights(weights):
    """Anything else is no division of traffic."""
    with pytest.raises(SplitInvalidError):
        propose_split(published(1), STAMP, "a", weights)


def test_a_stale_precondition_is_refused():
    """`if_match` is the generation that last touched the task; 0 means that it must not exist."""
    catalog = published(1, 2)

    for stale in (0, 1, 3):
        with pytest.raises(PreconditionFailedError) as caught:
            propose_activate(catalog, STAMP, "a", 1, if_match=stale)
        assert caught.value.found == 2
    assert propose_activate(catalog, STAMP, "a", 1, if_match=2).generation == 3
    assert propose_publish(catalog, STAMP, "b", digest(1), 1, activate=True, if_match=0)
    with pytest.raises(PreconditionFailedError):
        propose_publish(catalog, STAMP, "a", digest(1), 1, activate=True, if_match=0)


numbers = st.integers(0, 4)
wishes = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from("ab"), numbers, st.booleans()),
    st.tuples(st.just("activate"), st.sampled_from("ab"), numbers),
    st.tuples(st.just("alias"), st.sampled_from("ab"), st.sampled_from("xy"), st.none() | numbers),
    st.tuples(st.just("split"), st.sampled_from("ab"), st.dictionaries(numbers, st.integers(0, 3))),
    st.tuples(st.just("retire"), st.sampled_from("ab"), st.none() | numbers),
)


def play(catalog: Catalog, kind: str, task: str, *rest) -> Catalog:
    if kind == "publish":
        outcome = propose_publish(catalog, STAMP, task, digest(rest[0]), 10, activate=rest[1])
        return catalog if isinstance(outcome, Release) else fold(catalog, outcome)
    propose = {
        "activate": propose_activate,
        "alias": propose_alias,
        "split": propose_split,
        "retire": propose_retire,
    }[kind]
    return fold(catalog, propose(catalog, STAMP, task, *rest))


@given(st.lists(wishes, max_size=40))
def test_any_history_of_wishes_keeps_the_catalog_sound(history):
    """Invariants hold, releases never change but for retiring, and every event takes effect."""
    catalog = Catalog()
    seen = {}
    for wish in history:
        before = catalog
        try:
            catalog = play(catalog, *wish)
        except CatalogError:
            continue
        catalog.check()
        if catalog is not before:
            assert catalog.tasks[wish[1]].generation == catalog.generation == before.generation + 1
        for state in catalog.tasks.values():
            for release in state.releases:
                known = seen.setdefault((state.name, release.number), release)
                assert (release.digest, release.generation) == (known.digest, known.generation)
                assert release.retired or not known.retired
                seen[state.name, release.number] = release
            live = [r.digest for r in state.releases if not r.retired]
            assert len(live) == len(set(live))
            assert [r.number for r in state.releases] == [*range(1, len(state.releases) + 1)]
