"""A reader of today meets the log of a later version: it stops there, says so, harms nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters_store.catalog import Catalog, fold_all
from adapters_store.errors import EventUnknownError
from adapters_store.events import parse_event
from adapters_store.objects import Objects
from adapters_store.store import AdapterStore
from rootstock.main import app

FOLDER = "0123456789abcdef"
FILES = sorted((Path(__file__).parents[2] / "golden" / "log").glob("*.json"))
LAST = len(FILES)
NEWER = {
    "unknown kind 'merge'": {"kind": "merge", "releases": [1, 3]},
    "format '2' is not 1": {"format": 2, "kind": "retire", "release": None},
    "split.weights: ": {"kind": "split", "weights": [[1, 0.5]]},
}
CHANGES: list[Callable[[AdapterStore], object]] = [
    lambda s: s.publish(b"new", "golden", by="ann"),
    lambda s: s.publish(b"new", "new-task", by="ann"),
    lambda s: s.activate("golden", 1, by="ann"),
    lambda s: s.alias("golden", "stable", 1, by="ann"),
    lambda s: s.split("golden", {1: 1}, by="ann"),
    lambda s: s.retire("golden", by="ann"),
    lambda s: s.gc(),
]


def golden(uri: str, *more: dict[str, object]) -> Objects:
    """A store with the log that is kept in tests/golden, and then these entries."""
    objects = Objects.open(uri, FOLDER)
    common = json.loads(FILES[-1].read_bytes())
    entries = [file.read_bytes() for file in FILES]
    for n, entry in enumerate(more, LAST + 1):
        entries.append(json.dumps({**common, "generation": n, "id": str(n), **entry}).encode())
    for n, data in enumerate(entries, 1):
        objects.put(f"log/{n:020d}.json", data)
    return objects


def folded() -> Catalog:
    return fold_all(Catalog(), [parse_event(f.read_bytes(), n) for n, f in enumerate(FILES, 1)])


def opened(uri: str) -> AdapterStore:
    return AdapterStore.open(uri, FOLDER)


def run(*words: str, code: int) -> str:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout or result.stderr


@pytest.mark.parametrize("reason", NEWER)
def test_a_reader_keeps_what_it_has_in_front_of_a_newer_entry(uri, reason):
    """From nothing or from its own catalog; what lies behind the entry is not looked at."""
    golden(uri, NEWER[reason], {"kind": "activate", "release": 3})

    fresh = opened(uri).catch_up(Catalog())
    again = opened(uri).catch_up(fresh.catalog)

    assert fresh.catalog == again.catalog == folded()
    for caught in (fresh, again):
        assert caught.blocked is not None
        assert caught.blocked.generation == LAST + 1
        assert reason in caught.blocked.reason


@pytest.mark.parametrize("reason", NEWER)
def test_a_writer_puts_nothing_behind_a_newer_entry(memory, reason):
    """Whatever it wants; the log, and every blob that it may name, stay as they are."""
    objects = golden(memory, NEWER[reason])
    objects.put(f"blobs/sha256/{'ee' * 32}.safetensors", b"named by the newer entry, perhaps")
    before = {s.path for s in objects.under("")}

    for change in CHANGES:
        with pytest.raises(EventUnknownError) as caught:
            change(opened(memory))
        assert f"log entry {LAST + 1} cannot be read by this version: {reason}" in str(caught.value)

    after = {s.path for s in objects.under("")}
    assert before <= after
    assert all(path.startswith("blobs/") for path in after - before)


def test_a_field_of_a_later_version_stops_nobody(uri):
    """It is kept in the history, the event has its known meaning, and writing goes on."""
    golden(uri, {"kind": "activate", "task": "golden", "release": 3, "ticket": {"id": 7}})
    store = opened(uri)

    assert store.catalog().tasks["golden"].active == 3
    assert store.history("golden")[-1].model_extra == {"ticket": {"id": 7}}
    assert store.activate("golden", 1, by="ann") == LAST + 2


@pytest.mark.parametrize(
    "data",
    [
        b'{"catalog":{"generation":18,"tasks":{},"shards":[]},"format":2}',
        b'{"catalog":{"generation":18,"tasks":{},"shards":[]},"format":1}',
        b'{"catalog":{"generation":17,"tasks":{}},"format":1}',
        b'{"catalog"',
        b"",
    ],
)
def test_a_snapshot_that_is_newer_or_broken_is_ignored(uri, data):
    """The log is the truth; a sound snapshot before it is still used, and `verify` tells."""
    objects = golden(uri)
    kept = FILES[0].parents[1] / "snapshots" / f"{LAST:020d}.json"
    objects.put("snapshots/00000000000000000018.json", data)

    assert opened(uri).catalog() == folded()
    assert any(fault.startswith("snapshot 18") for fault in opened(uri).verify().faults)
    objects.put("snapshots/00000000000000000018.json", kept.read_bytes())
    assert not any(fault.startswith("snapshot") for fault in opened(uri).verify().faults)
    for n in range(1, LAST + 1):
        objects.delete(f"log/{n:020d}.json")
    assert opened(uri).catalog() == folded(), "it does read sound snapshots"


def test_a_snapshot_of_a_later_version_does_not_lead_around_its_entries(memory):
    """A newer snapshot lies behind the entry that cannot be read: the reader still stops at it."""
    objects = golden(memory, NEWER["unknown kind 'merge'"])
    objects.put("snapshots/00000000000000000019.json", b'{"catalog":{},"format":2}')

    caught = opened(memory).catch_up(Catalog())

    assert (caught.catalog, caught.blocked and caught.blocked.generation) == (folded(), LAST + 1)


def test_the_commands_say_what_they_could_not_read(tmp_path):
    """Listing shows what is known and ends with 1; changing is refused in one line."""
    golden(str(tmp_path), NEWER["unknown kind 'merge'"])
    store = ("--store", str(tmp_path))
    entry = f"log entry {LAST + 1} cannot be read by this version: unknown kind 'merge'"

    listed = CliRunner().invoke(app, ["store", "list", *store])
    value = json.loads(run("store", "list", *store, "--json", code=1))
    checked = json.loads(run("store", "verify", *store, "--json", code=1))

    assert listed.exit_code == 1
    assert "golden" in listed.stdout
    assert f"{entry}; listed is what it came to before (generation {LAST})" in listed.stderr
    assert (value["generation"], value["blocked"]) == (LAST, entry)
    assert [task["task"] for task in value["tasks"]] == ["golden", "other"]
    assert (checked["ok"], checked["events"], entry in checked["faults"]) == (False, LAST, True)
    for words in (
        ("activate", "golden", "1"),
        ("alias", "golden", "stable", "1"),
        ("split", "golden", "1=1"),
        ("retire", "golden"),
        ("history", "golden"),
        ("gc",),
        ("copy", "golden", "--to", str(tmp_path / "other")),
    ):
        said = run("store", *words, *store, code=1)
        assert said.strip() == f"rootstock: {entry}"
