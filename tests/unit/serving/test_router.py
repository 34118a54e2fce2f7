"""Routing: the release that was asked for, the last good one in its place, or a clear refusal."""

import pytest

from adapters_store.catalog import Catalog, Release, TaskState
from adapters_store.errors import ReleaseNotFoundError, TaskNotFoundError
from serving.errors import ReleaseFailedError
from serving.router import route


def release(number: int) -> Release:
    """Release n of the task, its digest n repeated."""
    return Release(
        task="flowers",
        number=number,
        digest=str(number) * 64,
        bytes=1,
        generation=number,
        at="2026-01-01T00:00:00Z",
        by="test",
        why="",
    )


CATALOG = Catalog(
    generation=9,
    tasks={
        "flowers": TaskState(
            name="flowers",
            releases=tuple(map(release, (1, 2, 3))),
            active=3,
            aliases={"stable": 2},
            generation=9,
        )
    },
)


def refusing(*numbers: int):
    """A verdict that refuses these releases."""
    return lambda digest: digest in {str(n) * 64 for n in numbers}


@pytest.mark.parametrize(
    ("ref", "number"), [("flowers", 3), ("flowers@1", 1), ("flowers@stable", 2)]
)
def test_a_name_a_number_and_an_alias_resolve(ref, number):
    assert route(CATALOG, ref, None, {}, refusing()).release == number


def test_unknown_names_are_told_apart():
    with pytest.raises(TaskNotFoundError):
        route(CATALOG, "birds", None, {}, refusing())
    for ref in ("flowers@9", "flowers@nightly", "flowers@", "flowers@01"):
        with pytest.raises(ReleaseNotFoundError):
            route(CATALOG, ref, None, {}, refusing())


def test_the_last_verified_release_stands_in_for_one_that_fails():
    way = route(CATALOG, "flowers", None, {"flowers": (release(2),)}, refusing(3))

    assert way.release == 2
    assert way.digest == "2" * 64


def test_what_passed_before_stands_in_for_what_passed_and_was_quarantined_since():
    passed = {"flowers": (release(3), release(2), release(1))}

    assert route(CATALOG, "flowers", None, passed, refusing(3)).release == 2
    assert route(CATALOG, "flowers", None, passed, refusing(2, 3)).release == 1


def test_a_release_asked_for_by_name_is_never_replaced():
    verified = {"flowers": (release(2),)}

    for ref, bad in (("flowers@3", 3), ("flowers@stable", 2)):
        with pytest.raises(ReleaseFailedError):
            route(CATALOG, ref, None, verified, refusing(bad))


def test_without_an_earlier_release_the_failure_is_said():
    for verified in ({}, {"flowers": (release(2),)}):
        with pytest.raises(ReleaseFailedError):
            route(CATALOG, "flowers", None, verified, refusing(2, 3))
