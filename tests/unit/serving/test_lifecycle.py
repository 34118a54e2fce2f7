"""What is published, listed, changed and taken away over HTTP, and every refusal of it."""

import hashlib

from adapters_store import artifact
from tests.unit.serving.conftest import PROBLEM, predict


def test_tasks_are_listed_in_pages(door):
    client, _ = door

    first = client.get("/v1/tasks?limit=1").json()
    second = client.get(f"/v1/tasks?limit=1&page={first['next']}").json()

    assert [i["task"] for i in first["items"]] == ["digits"]
    assert [i["task"] for i in second["items"]] == ["flowers"]
    assert second["next"] is None


def test_a_task_shows_labels_releases_and_replicas(door):
    client, _ = door

    answer = client.get("/v1/tasks/flowers")

    task = answer.json()
    assert task["labels"] == ["label 0", "label 1", "label 2"]
    assert task["method"] == "lora"
    assert [r["release"] for r in task["releases"]] == [1]
    assert task["replicas"][0]["digest"] == task["digest"]
    assert answer.headers["etag"] == '"2"'


def test_a_replica_that_cannot_answer_for_a_task_says_why(door, tiny, make_adapter):
    """It is in the list: one that is missing there would be one that is gone."""
    client, _ = door
    data = artifact.write(make_adapter(tiny, "linear", "waiting", labels=3))
    assert client.put("/v1/tasks/waiting?activate=false", content=data).status_code == 201

    (replica,) = client.get("/v1/tasks/waiting").json()["replicas"]

    assert (replica["release"], replica["digest"]) == (None, None)
    assert "waiting" in replica["detail"]


def test_publishing_swaps_the_release_and_pins_still_answer(door, tiny, make_adapter, png):
    client, _ = door
    data = artifact.write(make_adapter(tiny, "linear", "digits", labels=6, seed=9))

    published = client.put("/v1/tasks/digits?wait=true", content=data)

    assert published.status_code == 201
    assert published.json() == {
        "task": "digits",
        "release": 2,
        "digest": hashlib.sha256(data).hexdigest(),
        "generation": 3,
        "ready": True,
        "replicas": 1,
        "waiting_for": [],
    }
    assert predict(client, body=png, X_Min_Generation="3").json()["release"] == 2
    assert predict(client, "digits@1", png).json()["release"] == 1
    again = client.put("/v1/tasks/digits", content=data)
    assert (again.status_code, again.json()["release"]) == (200, 2)


def test_rollback_alias_split_and_retire(door, tiny, make_adapter, png):
    client, _ = door
    data = artifact.write(make_adapter(tiny, "linear", "digits", labels=6, seed=9))
    client.put("/v1/tasks/digits", content=data)

    rolled = client.post("/v1/tasks/digits:activate", json={"release": 1, "why": "worse"})
    assert rolled.json() == {"generation": 4}
    assert predict(client, body=png).json()["release"] == 1

    client.post("/v1/tasks/digits:alias", json={"alias": "next", "release": 2})
    assert predict(client, "digits@next", png).json()["release"] == 2

    client.post("/v1/tasks/digits:split", json={"weights": {"1": 1, "2": 1}})
    seen = {predict(client, body=png, X_Route_Key=f"k{i}").json()["release"] for i in range(20)}
    assert seen == {1, 2}

    assert client.delete("/v1/tasks/digits").status_code == 200
    assert predict(client, body=png).status_code == 404
    history = client.get("/v1/tasks/digits/history").json()["items"]
    assert [e["kind"] for e in history] == [
        "publish", "publish", "activate", "alias", "split", "retire",
    ]  # fmt: skip
    assert history[2]["why"] == "worse"


def test_publish_without_activation_changes_no_answer(door, tiny, make_adapter, png):
    client, _ = door
    data = artifact.write(make_adapter(tiny, "linear", "digits", labels=6, seed=9))

    assert client.put("/v1/tasks/digits?activate=false", content=data).status_code == 201

    assert predict(client, body=png).json()["release"] == 1
    assert predict(client, "digits@2", png).json()["release"] == 2


def test_if_match_guards_against_another_writer(door, tiny, make_adapter):
    client, _ = door
    data = artifact.write(make_adapter(tiny, "linear", "digits", labels=6, seed=9))
    tag = client.get("/v1/tasks/digits").headers["etag"]

    assert (
        client.put("/v1/tasks/digits", content=data, headers={"If-Match": '"77"'}).status_code
        == 412
    )
    assert (
        client.put("/v1/tasks/digits", content=data, headers={"If-Match": "x"}).status_code == 400
    )
    assert (
        client.put("/v1/tasks/digits", content=data, headers={"If-Match": tag}).status_code == 201
    )


def test_bad_artifacts_are_refused_and_the_store_is_unchanged(door, tiny, nano, make_adapter):
    client, replica = door
    before = replica.store.catalog()
    good = artifact.write(make_adapter(tiny, "lora", "digits"))
    flipped = bytearray(good)
    flipped[-1] ^= 1
    cases = {
        b"": 422,
        b"\x80\x04N.": 422,
        bytes(flipped): 422,
        good[:-5]: 422,
        artifact.write(make_adapter(tiny, "lora", "flowers")): 409,
        artifact.write(make_adapter(nano, "lora", "digits")): 409,
        artifact.write(make_adapter(tiny, "lora", "digits", effect=False)): 422,
    }

    for data, status in cases.items():
        answer = client.put("/v1/tasks/digits", content=data)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == PROBLEM
        if status == 422:
            assert answer.json()["faults"]

    assert replica.store.catalog() == before
    assert replica.store.verify().blobs == 2


def test_bad_orders_are_refused(door):
    client, _ = door

    for action, body, status in (
        ("activate", {"release": 9}, 404),
        ("activate", {"release": 0}, 400),
        ("activate", {"release": 1, "x": 1}, 400),
        ("activate", {}, 400),
        ("alias", {"alias": "UPPER", "release": 1}, 422),
        ("split", {"weights": {"1": 0}}, 422),
        ("split", {"weights": {"7": 1}}, 404),
    ):
        answer = client.post(f"/v1/tasks/digits:{action}", json=body)
        assert answer.status_code == status, (action, body, answer.text)
