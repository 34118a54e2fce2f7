"""`rootstock store` as a user types it, for what needs no real adapter."""

import hashlib
import json
from datetime import datetime, timedelta

import pytest
from typer.testing import CliRunner

from adapters_store.objects import Objects
from adapters_store.store import AdapterStore
from rootstock.main import app

FOLDER = "0123456789abcdef"


def run(*words: str, code: int = 0) -> str:
    """What a command that ends with this code says."""
    result = CliRunner().invoke(app, ["store", *(str(word) for word in words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture
def staging(tmp_path):
    """The address of a store with two tasks, and with one of which nothing is active."""
    uri = str(tmp_path / "staging")
    store = AdapterStore.open(uri, FOLDER)
    for data in (b"one", b"two"):
        store.publish(data, "flowers", by="ann")
    store.publish(b"oak", "trees", by="ann")
    store.publish(b"idle", "idle", by="ann", activate=False)
    store.activate("flowers", 1, by="ann")
    return uri


def test_the_active_release_is_copied(staging, tmp_path):
    target = tmp_path / "production"

    said = run("copy", "flowers", "--store", staging, "--to", target, "--why", "tested")

    assert said == f"flowers@1 is now flowers@1 in {target}, and answers\n"
    (event,) = json.loads(run("history", "flowers", "--store", target, "--json"))
    assert event["why"] == f"copied from {staging} flowers@1 by ann: tested"
    assert "ok: 1 events" in run("verify", "--store", target)
    again = run("copy", "flowers", "--store", staging, "--to", target)
    assert again == f"flowers@1 is already flowers@1 in {target}, and answers\n"
    assert len(json.loads(run("history", "flowers", "--store", target, "--json"))) == 1


def test_a_release_is_copied_by_its_number_without_answering(staging, tmp_path):
    where = ("--store", staging, "--to", tmp_path / "production")

    value = json.loads(run("copy", "flowers@2", "trees", *where, "--no-activate", "--json"))

    assert value == {
        "copied": [
            {
                "task": task,
                "from": number,
                "to": 1,
                "digest": hashlib.sha256(data).hexdigest(),
                "generation": generation,
                "created": True,
                "activated": False,
            }
            for generation, (task, number, data) in enumerate(
                [("flowers", 2, b"two"), ("trees", 1, b"oak")], 1
            )
        ],
        "passed_over": [],
    }


def test_a_whole_store_is_copied(staging, tmp_path):
    where = ("--store", staging, "--to", tmp_path / "production", "--json")

    active = json.loads(run("copy", "--all-tasks", *where))
    whole = json.loads(run("copy", "--all-tasks", "--all-releases", *where))

    assert [(r["task"], r["from"]) for r in active["copied"]] == [("flowers", 1), ("trees", 1)]
    assert active["passed_over"] == ["idle"]
    assert [(r["task"], r["from"], r["to"], r["created"]) for r in whole["copied"]] == [
        ("flowers", 1, 1, False),
        ("flowers", 2, 2, True),
        ("idle", 1, 1, True),
        ("trees", 1, 1, False),
    ]
    listed = json.loads(run("list", "--store", tmp_path / "production", "--json"))["tasks"]
    assert {t["task"]: t["active"] for t in listed} == {"flowers": 1, "trees": 1, "idle": None}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name the tasks to copy, or --all-tasks"),
        (("flowers", "--all-tasks"), "name the tasks to copy, or --all-tasks"),
        (("roses",), "no task 'roses'"),
        (("flowers@9",), "task 'flowers' has no release '9'"),
        (("idle",), "task 'idle' has no release 'active'"),
        (("flowers", "--to", "s3:///nowhere"), "store s3:///nowhere: "),
    ],
)
def test_what_cannot_be_copied_is_said_in_one_line(staging, tmp_path, words, said):
    where = ("--store", staging, "--to", tmp_path / "production")

    output = run("copy", *where, *words, code=1)

    assert said in output
    assert len(output.strip().splitlines()) == 1


def test_a_store_is_not_copied_onto_itself(staging):
    assert "the store to copy from" in run(
        "copy", "flowers", "--store", staging, "--to", staging, code=1
    )


def test_the_collector_tells_what_it_took_and_what_it_left(staging, tmp_path, monkeypatch):
    """Young artifacts stay; a day later they, and what a killed writer left half-written, go."""
    run("retire", "flowers", "--release", "2", "--store", staging)
    draft = tmp_path / "staging" / FOLDER / "log" / "00000000000000000007.json#1"
    draft.write_bytes(b"{")

    early = run("gc", "--store", staging)
    now = Objects.now
    later: datetime = now(Objects.open(staging, FOLDER)) + timedelta(hours=25)
    monkeypatch.setattr(Objects, "now", lambda self: later)
    late = run("gc", "--store", staging)

    assert early == (
        "deleted 0 artifacts, 0 bytes\n1 more belong to no release but are younger than 24 hours\n"
    )
    assert late == (
        "deleted 1 artifacts, 3 bytes\ntook away 1 leftovers of writers that were killed\n"
    )
    assert not draft.exists()
    assert "ok: 6 events" in run("verify", "--store", staging)


def test_a_split_is_listed(staging):
    run("split", "flowers", "1=90", "2=10", "--store", staging)

    assert "1=90, 2=10" in run("list", "--store", staging)
