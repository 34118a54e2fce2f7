"""Bad artifacts at the door: each refused with all its faults, and the store as it was."""

import shutil
from pathlib import Path
from urllib.parse import quote

import pytest

from adapters_store import artifact
from adapters_store.catalog import Catalog
from tests import forge
from tests.matrix_artifacts import (
    ALIAS_NAMES,
    BYTES,
    COMBINED,
    HEADERS,
    LIMIT_BYTES,
    MANIFESTS,
    TASK,
    TASK_NAMES,
    TENSORS,
    TOO_LARGE,
)

PROBLEM = "application/problem+json"
ANSWER_BYTES_MOST = 64 * 1024
GROUPS = {
    "bytes": BYTES + TOO_LARGE,
    "headers": HEADERS,
    "tensors": TENSORS,
    "manifests": MANIFESTS,
    "combined": COMBINED,
}


@pytest.fixture
def folder(tmp_path):
    """Where the store keeps its objects."""
    return tmp_path / "store"


@pytest.fixture
def door(replica_of, publish, http):
    """A client of a replica with one task published."""
    publish(TASK, "alore")
    return http(replica_of(artifact_bytes=LIMIT_BYTES))


@pytest.fixture
def sound(tiny, make_adapter, tmp_path):
    """A valid artifact that is not published, in its parts."""
    return forge.opened(artifact.write(make_adapter(tiny, "lora", TASK)), tmp_path / "sprung")


def objects(folder: Path) -> dict[str, bytes]:
    """Every object of a store."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def predict(door, png, task=TASK):
    return door.post(f"/v1/tasks/{task}:predict", content=png, headers={"Content-Type": "image/*"})


@pytest.mark.parametrize("group", GROUPS)
def test_every_bad_artifact_is_refused_and_the_store_is_unchanged(
    group, door, store, folder, sound, png, tmp_path
):
    before, generation = objects(folder), store.catalog().generation

    for case in GROUPS[group]:
        answer = door.put(f"/v1/tasks/{TASK}", content=case.spoil(sound))

        assert answer.status_code == case.status, (case.name, answer.text[:1000])
        assert answer.headers["content-type"] == PROBLEM
        problem = answer.json()
        for word in case.words:
            assert word in problem["detail"], (case.name, word, problem["detail"][:1000])
        assert len(answer.content) < ANSWER_BYTES_MOST, case.name
        assert str(tmp_path) not in answer.text
        assert "Traceback" not in answer.text
        if problem["code"] in ("artifact_invalid", "effect_failed", "mismatch"):
            assert problem["faults"]
            assert all(fault in problem["detail"] for fault in problem["faults"])

    assert objects(folder) == before
    assert store.catalog().generation == generation
    assert not sound.trap.exists(), "somebody unpickled"
    assert predict(door, png).status_code == 200
    assert door.put(f"/v1/tasks/{TASK}", content=sound.data).status_code == 201


def test_a_name_that_breaks_the_rule_is_no_task(door, store, folder, sound):
    before = objects(folder)

    for name in TASK_NAMES:
        answer = door.put(f"/v1/tasks/{quote(name, safe='').replace('.', '%2E')}", content=b"")
        assert answer.status_code in (404, 405, 422), (name, answer.text)
        assert answer.headers["content-type"] == PROBLEM
        named = forge.manifest(task=name)(sound)
        answer = door.put(f"/v1/tasks/{TASK}", content=named)
        assert answer.status_code == 422, (name, answer.text)
        assert "manifest.task" in answer.json()["detail"]

    assert objects(folder) == before


def test_a_name_that_breaks_the_rule_is_no_alias(door, folder):
    before = objects(folder)

    for name in ALIAS_NAMES:
        order = {"alias": name, "release": 1}
        answer = door.post(f"/v1/tasks/{TASK}:alias", json=order)
        assert answer.status_code == 422, (name, answer.text)
        assert answer.json()["code"] == "name_invalid"

    assert objects(folder) == before


def test_an_order_with_a_long_key_is_refused_in_a_short_answer(door):
    answer = door.post(f"/v1/tasks/{TASK}:alias", json={"k" * 60_000: 1})

    assert answer.status_code == 400
    assert len(answer.content) < 1000


def test_a_body_of_no_announced_length_is_bounded_too(door):
    def parts():
        for _ in range(LIMIT_BYTES // 2**20 + 1):
            yield bytes(2**20)

    answer = door.put(f"/v1/tasks/{TASK}", content=parts())

    assert answer.status_code == 413


def test_what_publishes_a_bad_artifact_does_not_harm_the_same_bytes_later(door, store, sound):
    """A refusal is remembered for what a store holds, not for what somebody once sent."""
    flowers = forge.manifest(task="flowers")(sound)

    assert door.put(f"/v1/tasks/{TASK}", content=flowers).status_code == 409
    assert door.put("/v1/tasks/flowers", content=flowers).status_code == 201


@pytest.mark.parametrize(
    ("plant", "status"),
    [
        (lambda blob, other: blob.symlink_to(shutil.copy(other, f"{blob}.copy")), 200),
        (lambda blob, other: blob.symlink_to("/etc/passwd"), 503),
        (lambda blob, other: blob.symlink_to(blob.with_name("nothing")), 503),
        (lambda blob, other: blob.symlink_to(blob), 503),
        (lambda blob, other: blob.symlink_to(blob.parent), 503),
        (lambda blob, other: blob.mkdir(), 503),
    ],
    ids=["to its bytes", "to other bytes", "to nothing", "to itself", "to a folder", "a folder"],
)
def test_a_link_in_place_of_a_blob_answers_with_its_bytes_or_not_at_all(
    plant, status, publish, replica_of, http, folder, png, tmp_path
):
    publish(TASK, "lora")
    (blob,) = folder.glob("*/blobs/sha256/*.safetensors")
    other = blob.rename(tmp_path / "moved")
    plant(blob, other)

    answer = predict(http(replica_of()), png)

    assert answer.status_code == status, answer.text
    assert "passwd" not in answer.text
    assert str(folder) not in answer.text


def test_a_link_in_place_of_an_event_is_no_other_event(publish, replica_of, http, folder, store):
    """The number is in the event: an older one under a new number stops the reader."""
    publish(TASK, "lora")
    (first,) = folder.glob("*/log/*.json")
    first.with_name(f"{2:020}.json").symlink_to(first)

    door = http(replica_of())

    assert store.catch_up(Catalog()).blocked
    assert door.get(f"/v1/tasks/{TASK}").status_code == 200
    assert door.get("/readyz").json()["generation"] == 1


def test_nothing_is_written_through_a_link(store, publish, folder, tmp_path):
    """Publishing the bytes again puts them in the link's place and leaves what it pointed at."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    data = publish(TASK, "lora")
    (blob,) = folder.glob("*/blobs/sha256/*.safetensors")
    blob.unlink()
    blob.symlink_to(victim)

    store.publish(data, TASK, by="test")

    assert victim.read_bytes() == b"precious"
    assert not blob.is_symlink()
    assert blob.read_bytes() == data


def test_a_link_to_nothing_in_place_of_the_next_event_is_left_alone(
    replica_of, publish, http, folder, sound, png, tmp_path
):
    """Readers see the end of the log there; a writer is refused, and makes no file elsewhere."""
    publish(TASK, "alore")
    (first,) = folder.glob("*/log/*.json")
    first.with_name(f"{2:020}.json").symlink_to(tmp_path / "elsewhere")
    door = http(replica_of())

    answer = door.put(f"/v1/tasks/{TASK}", content=sound.data)

    assert answer.status_code == 503
    assert not (tmp_path / "elsewhere").exists()
    assert predict(door, png).status_code == 200
