"""Following the log: whole views, verified before they answer, and what happens when it is away."""

import threading
import time

import pytest

from adapters_store import artifact
from adapters_store.adapter import Adapter
from adapters_store.errors import StoreUnavailableError
from serving.errors import QuarantinedError
from serving.replica import Replica
from serving.router import route


def until(condition, timeout_s=10.0):
    """Wait for a condition; fails the test when it never comes."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@pytest.fixture
def broken(tiny, make_adapter, store):
    """Publishes an artifact that is well-formed and does not do what its manifest says."""

    def put(task="digits") -> str:
        good = make_adapter(tiny, "lora", task, seed=5)
        other = {k: -v if "B_" in k else v for k, v in good.tensors.items()}
        data = artifact.write(Adapter(manifest=good.manifest, tensors=other))
        store.publish(data, task, by="test")
        return artifact.digest(data)

    return put


def test_a_release_published_elsewhere_arrives_by_itself(replica_of, publish):
    publish("digits")
    replica = replica_of()
    assert replica.generation == 1

    data = publish("digits", seed=1)

    until(lambda: replica.generation == 2)
    assert artifact.digest(data) == replica.follower.view.verified["digits"][0].digest
    assert replica.residency.known() == 2, "it was loaded before it answered"


def test_a_replica_that_starts_on_an_empty_store_is_ready(replica_of):
    replica = replica_of()

    assert replica.ready()[0]
    assert replica.generation == 0


def test_a_release_that_fails_leaves_the_one_before_answering(
    replica_of, publish, broken, http, png
):
    publish("digits")
    replica = replica_of()
    client = http(replica)
    assert client.post("/v1/tasks/digits:predict", content=png).json()["release"] == 1

    broken()
    until(lambda: replica.generation == 2)

    answer = client.post("/v1/tasks/digits:predict", content=png)
    assert (answer.status_code, answer.json()["release"]) == (200, 1)
    assert client.get("/readyz").json()["failing"] == ["digits"]
    assert client.post("/v1/tasks/digits@2:predict", content=png).status_code == 503


def test_a_release_that_fails_with_none_before_it_is_said(replica_of, broken, http, png):
    broken()
    client = http(replica_of())

    answer = client.post("/v1/tasks/digits:predict", content=png)

    assert answer.status_code == 503
    assert answer.json()["code"] == "release_failed"


def test_a_release_that_fails_leaves_one_answering_that_nobody_had_asked_for(
    replica_of, publish, broken, http, png
):
    publish("digits")
    replica = replica_of()

    broken()
    until(lambda: replica.generation == 2)

    answer = http(replica).post("/v1/tasks/digits:predict", content=png)
    assert (answer.status_code, answer.json()["release"]) == (200, 1)


def test_many_new_tasks_do_not_hold_up_a_view(replica_of, publish, monkeypatch):
    """What nothing answered for until now need not be loaded before it can be asked for."""
    replica = replica_of(poll_s=3600)
    monkeypatch.setattr("serving.host_memory._CALM_S", 3600.0)
    for i in range(5):
        publish(f"task-{i}", seed=i)
    expected = []
    monkeypatch.setattr(replica.residency, "expect", expected.append)

    assert replica.follower.catch_up() == 5
    assert expected == []
    until(lambda: replica.residency.known() == 5)


def test_an_alias_causes_no_check_of_what_was_active_already(replica_of, publish, store):
    publish("digits")
    replica = replica_of(poll_s=3600)
    store.alias("digits", "stable", 1, by="test")
    replica.follower.catch_up()

    assert dict(replica.follower.view.verified) == {}


def test_an_unreachable_store_stops_nothing_that_is_loaded(
    replica_of, publish, http, png, monkeypatch
):
    publish("digits")
    replica = replica_of()
    client = http(replica)
    client.post("/v1/tasks/digits:predict", content=png)

    def away(catalog):
        raise StoreUnavailableError("s3://somewhere", "no route")

    with monkeypatch.context() as patch:
        patch.setattr(replica.store, "catch_up", away)
        until(lambda: replica.follower.state == "unreachable")
        assert client.post("/v1/tasks/digits:predict", content=png).status_code == 200
        assert client.get("/readyz").json()["store"] == "unreachable"

    until(lambda: replica.follower.state == "ok")


def test_a_retired_task_is_gone_and_comes_back(replica_of, publish, store, http, png):
    publish("digits")
    replica = replica_of()
    client = http(replica)

    store.retire("digits", by="test")
    until(lambda: replica.generation == 2)
    assert client.post("/v1/tasks/digits:predict", content=png).status_code == 404

    publish("digits", seed=1)
    until(lambda: replica.generation == 3)
    assert client.post("/v1/tasks/digits:predict", content=png).json()["release"] == 2


def test_reading_ones_own_write_needs_no_poll(replica_of, publish, store):
    replica = replica_of(poll_s=3600)
    publish("digits")

    assert replica.follower.ensure(1, 5.0)
    assert not replica.follower.ensure(99, 0.2)


def test_closing_leaves_no_thread_behind(settings_of):
    before = set(threading.enumerate())
    replica = Replica(settings_of(), "short")
    replica.close()

    left = [t.name for t in set(threading.enumerate()) - before if t.name.startswith("rootstock")]
    assert left == []


def test_a_publish_under_way_ends_before_the_replica_does(settings_of, tiny, make_adapter):
    """Nothing sets a result on a load that closing has given up."""
    replica = Replica(settings_of(), "short")
    loader, begun, gate = replica.residency._host._loader, threading.Event(), threading.Event()
    real = loader.prove

    def prove(facts, promise, pause=None):
        begun.set()
        assert gate.wait(10)
        real(facts, promise, pause)

    loader.prove = prove
    data = artifact.write(make_adapter(tiny, "lora", "digits"))
    published = replica._writers.submit(replica.publish, data, "digits", by="test")
    assert begun.wait(10)
    closing = threading.Thread(target=replica.close)
    closing.start()
    closing.join(0.3)
    gate.set()
    closing.join(30)

    assert published.result(10).release.number == 1


def test_a_replica_tells_with_which_kernel_and_in_what_form_it_computes(replica_of, caplog):
    caplog.set_level("INFO", "serving.engine_room")
    replica = replica_of()

    (ready,) = [r for r in caplog.records if r.message == "replica ready"]
    kernel = replica.engine.kernel
    assert ready.kernel == ("none" if kernel is None else kernel.name)
    assert ready.form == str(replica.engine.form)


def test_a_release_that_cannot_be_fetched_leaves_the_one_before_answering(
    replica_of, publish, http, png, monkeypatch
):
    publish("digits")
    replica = replica_of(load_s=0.2)
    client = http(replica)
    assert client.post("/v1/tasks/digits:predict", content=png).json()["release"] == 1

    def away(digest):
        raise StoreUnavailableError("s3://somewhere", "no route")

    monkeypatch.setattr(replica.residency._host._loader, "_fetch", away)
    publish("digits", seed=1)
    until(lambda: replica.generation == 2)

    answer = client.post("/v1/tasks/digits:predict", content=png)
    assert (answer.status_code, answer.json()["release"]) == (200, 1)
    assert client.get("/v1/tasks/digits").status_code == 200, "one can look, to roll back"


def test_following_goes_on_after_an_unexpected_error(replica_of, publish, monkeypatch):
    replica = replica_of()

    def broken(catalog):
        raise RuntimeError("surprise")

    with monkeypatch.context() as patch:
        patch.setattr(replica.store, "catch_up", broken)
        time.sleep(0.3)
    publish("digits")

    until(lambda: replica.generation == 1)


def test_a_retired_release_stands_in_for_nothing(replica_of, publish, store):
    """It passed here once, and somebody has taken it back since."""
    replica = replica_of(poll_s=3600)
    follower, residency = replica.follower, replica.residency
    for seed in range(3):
        digest = artifact.digest(publish("digits", seed=seed))
        follower.catch_up()
        residency.get(digest).result(10)
        follower.passed("digits", digest)
    assert [r.number for r in follower.view.verified["digits"]] == [3, 2, 1]

    store.retire("digits", 2, by="test")
    follower.catch_up()
    residency.quarantine(digest, QuarantinedError("digits", 3, ("other logits",)))

    view = follower.view
    assert route(view.catalog, "digits", None, view.verified, residency.refused).release == 1


def test_releases_that_are_left_behind_leave_memory(replica_of, publish, store):
    """The active one, aliased ones and the newest few stay, however many were published."""
    replica = replica_of()
    for seed in range(12):
        publish("digits", seed=seed)
        replica.follower.catch_up()
        if seed == 2:
            store.alias("digits", "stable", 2, by="test")
    store.activate("digits", 6, by="test")
    replica.follower.catch_up()

    releases = replica.follower.view.catalog.tasks["digits"].releases
    kept = {r.number for r in releases if r.digest in replica.residency._host._books.host}
    assert kept == {2, 6, 9, 10, 11, 12}
    replica.residency.check()


def test_a_release_that_left_memory_can_still_be_asked_for(replica_of, publish, http, png):
    """By its number: it is loaded again."""
    replica = replica_of()
    for seed in range(8):
        publish("digits", seed=seed)
        replica.follower.catch_up()

    answer = http(replica).post(
        "/v1/tasks/digits@1:predict", content=png, headers={"content-type": "image/png"}
    )

    assert (answer.status_code, answer.json()["release"]) == (200, 1)


def test_bytes_that_come_back_as_another_release_stay(replica_of, publish, store):
    """What is active is kept by its digest, whichever number it once had."""
    replica = replica_of()
    for seed in range(6):
        publish("digits", seed=seed)
    store.retire("digits", by="test")
    data = publish("digits", seed=0)
    replica.follower.catch_up()
    store.alias("digits", "stable", 7, by="test")
    replica.follower.catch_up()

    until(lambda: artifact.digest(data) in replica.residency._host._books.host)
