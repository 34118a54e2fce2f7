"""Events: what is read, what is kept, and what stops a reader."""

import json
import pickle

import pytest

from adapters_store.errors import EventUnknownError
from adapters_store.events import ALIAS_NAME, Activate, Split, event_to_json, parse_event

RETIRE = {
    "format": 1,
    "id": "1b0c",
    "generation": 7,
    "at": "2026-01-01T00:00:00+00:00",
    "by": "ann",
    "why": "",
    "kind": "retire",
    "task": "flowers",
    "release": None,
}


def encoded(**changes: object) -> bytes:
    return json.dumps({**RETIRE, **changes}).encode()


def test_an_event_survives_the_log():
    """What is written is what is read, weights of releases included."""
    event = Split(id="x", generation=3, at="", by="ann", why="", task="a", weights={3: 90, 4: 10})

    assert parse_event(event_to_json(event), 3) == event


def test_unknown_fields_are_kept():
    """A field of a later version is still there when the event is written again."""
    event = parse_event(encoded(ticket="OPS-7"), 7)

    assert json.loads(event_to_json(event)) == {**RETIRE, "ticket": "OPS-7"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(kind="merge"), "unknown kind 'merge'"),
        (encoded(kind=["retire"]), "unknown kind"),
        (encoded(format=2), "format '2' is not 1"),
        (encoded(format=2, kind="merge"), "format '2' is not 1"),
        (encoded(generation=8), "calls itself generation 8"),
        (encoded(task="a\n"), "task: "),
        (encoded(task="A"), "task: "),
        (encoded(release="1"), "release: "),
        (encoded(kind="split", weights={}), "weights: "),
        (encoded(kind="split", weights={"1": 0}), "weights.1: "),
        (encoded(kind="alias", alias="3", release=1), "alias: "),
        (encoded(kind="publish", release=1, digest="00", bytes=1, activate=True), "digest: "),
        (b"[]", "not a JSON object"),
        (b"", "not a JSON object"),
        (b"\xff" * 9, "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
    ],
)
def test_what_cannot_be_understood_stops_the_reader(data, reason):
    """A newer format, an unknown kind or a damaged entry is one error that names the entry."""
    with pytest.raises(EventUnknownError) as caught:
        parse_event(data, 7)

    assert caught.value.generation == 7
    assert reason in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_event_cannot_be_changed():
    """Events are frozen."""
    event = Activate(id="x", generation=3, at="", by="ann", why="", task="a", release=1)

    with pytest.raises(ValueError, match="frozen"):
        event.release = 2


@pytest.mark.parametrize("name", ["3", "", "a\n", "A", "-a", "a" * 32, "a.b", "a@b"])
def test_what_is_no_alias_is_refused(name):
    """An alias never looks like a release number, and a newline does not slip in at the end."""
    assert not ALIAS_NAME.fullmatch(name)
