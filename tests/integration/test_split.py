"""Topology `split` on HAProxy: two doors, two engines, and what happens to them under load."""

import asyncio
import json
import os
import signal
import time

import pytest

from adapters_store import artifact
from serving.config import Settings
from serving.launch import free_port, run
from tests.bench.hardening.churn import TASKS, publisher
from tests.bench.hardening.load import Load, picture, telling
from tests.bench.hardening.probe import request
from tests.bench.hardening.topology import engines, redeploy
from tests.conftest import make_adapter

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGE = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The server, for every test of this file."""
    folder = tmp_path_factory.mktemp("split")
    settings = Settings(
        store=f"file://{folder}",
        port=free_port(),
        threads=1,
        topology="split",
        replicas=2,
        doors=2,
    )
    with run(settings, timeout_s=400) as one:
        yield one


def readyz(running) -> dict:
    """What the door says of itself and the engines."""
    return json.loads(request(running, "GET", "/readyz")[1])


def test_what_was_published_answers_at_once_by_its_generation(running, nano):
    """Whichever engine the sample comes to."""
    for number in range(1, 4):
        data = telling(nano, "fresh", number)
        status, said, _ = request(running, "PUT", "/v1/tasks/fresh?wait=true", data)
        put = json.loads(said)
        assert status == 201
        assert (put["ready"], put["replicas"], put["waiting_for"]) == (True, 4, [])

        for _ in range(8):
            headers = {**IMAGE, "X-Min-Generation": str(put["generation"])}
            status, said, _ = request(
                running, "POST", "/v1/tasks/fresh:predict", picture(), headers
            )
            assert (status, json.loads(said)["release"]) == (200, number)

    ready = readyz(running)
    assert [e["ready"] for e in ready["engines"]] == [True, True]
    about = json.loads(request(running, "GET", "/v1/tasks/fresh")[1])
    assert sorted(r["kind"] for r in about["replicas"]) == ["door", "door", "engine", "engine"]
    assert {r["release"] for r in about["replicas"]} == {3}
    scrape = request(running, "GET", "/metrics")[1]
    assert b"rootstock_replicas_scraped 4.0" in scrape


def test_one_image_is_answered_for_many_tasks(running, nano):
    """In order, with a problem where there is no such task."""
    names = [f"head-{i}" for i in range(10)]
    for i, name in enumerate(names):
        data = artifact.write(make_adapter(nano, "linear", name, labels=3, seed=i))
        assert request(running, "PUT", f"/v1/tasks/{name}", data)[0] == 201
    query = "&".join(f"task={name}" for name in (*names, "nowhere"))

    status, said, _ = request(running, "POST", f"/v1/predict?{query}", picture(), IMAGE)

    results = json.loads(said)["results"]
    assert status == 200
    assert [r.get("task") for r in results] == [*names, None]
    assert results[-1]["status"] == 404


def test_a_task_is_brought_into_memory_and_let_go_on_every_replica(running, nano):
    """Doors and engines; what is not in memory is answered all the same."""
    data = artifact.write(make_adapter(nano, "lora", "kept", labels=3))
    assert request(running, "PUT", "/v1/tasks/kept", data)[0] == 201

    for verb in ("unload", "load", "unload"):
        status, said, _ = request(running, "POST", f"/v2/repository/models/kept/{verb}", b"{}")
        assert (status, json.loads(said)) == (200, {"name": "kept", "replicas": 4}), verb
        status, said, _ = request(running, "POST", "/v1/tasks/kept:predict", picture(), IMAGE)
        assert (status, json.loads(said)["task"]) == (200, "kept"), verb

    status, said, _ = request(running, "POST", "/v2/repository/models/nowhere/load", b"{}")
    assert (status, list(json.loads(said))) == (404, ["error"])


def test_refusals_come_through_the_ingress_as_they_are(running, nano):
    """Problem documents on /v1, the protocol's own words on /v2, and when to ask again."""
    data = artifact.write(make_adapter(nano, "lora", "refusing", labels=3))
    assert request(running, "PUT", "/v1/tasks/refusing", data)[0] == 201
    behind = {"X-Min-Generation": "1000000", "X-Request-Deadline-Ms": "1000"}
    hasty = {"X-Request-Deadline-Ms": "0"}

    for headers, wanted, code in ((behind, 503, "behind"), (hasty, 504, "deadline")):
        for path in ("/v1/tasks/refusing:predict", "/v2/models/refusing/infer"):
            status, said, told = request(running, "POST", path, picture(), {**IMAGE, **headers})
            told = {name.lower(): value for name, value in told.items()}
            assert status == wanted, path
            assert ("retry-after" in told) == (status == 503), path
            if path.startswith("/v2"):
                assert list(json.loads(said)) == ["error"]
            else:
                assert told["content-type"] == "application/problem+json"
                assert json.loads(said)["code"] == code


def test_a_killed_engine_fails_nothing_and_its_replacement_serves_every_task(running, nano):
    """The door sends its groups once more; soon a new engine has applied the whole log."""
    known = engines(running)
    assert len(known) == 2

    async def kill() -> Load:
        async with publisher(running) as by:
            for i, task in enumerate(TASKS):
                await by.publish(task, telling(nano, task, 1, seed=i))
            load = Load(running, TASKS, by.known, clients=4)
            async with load.running():
                await asyncio.sleep(1)
                os.kill(min(known), signal.SIGKILL)
                deadline = time.monotonic() + 120
                while len([e for e in readyz(running)["engines"] if e["ready"]]) < 2:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.2)
                await asyncio.sleep(1)
            return load

    load = asyncio.run(kill())

    assert len(load.hits) > 20
    assert {h.status for h in load.hits} == {200}
    assert not [h for h in load.hits if h.stale or h.miscomputed]
    os.kill(min(known & engines(running)), signal.SIGKILL)  # from now on the new one is asked
    for task in (*TASKS, "fresh"):
        for _ in range(2):
            status, _, _ = request(running, "POST", f"/v1/tasks/{task}:predict", picture(), IMAGE)
        assert status == 200, task


def test_a_rolling_redeploy_keeps_serving(running, nano):
    """New settings for every replica, doors and engines, one after the other."""
    before = engines(running)

    async def roll() -> Load:
        async with publisher(running) as by:
            for i, task in enumerate(TASKS):
                await by.publish(task, telling(nano, task, 2, seed=i))
            load = Load(running, TASKS, by.known, clients=2)
            async with load.running():
                await redeploy(running, budget_s=29.0)
                await asyncio.sleep(1)
            return load

    load = asyncio.run(roll())

    assert not before & engines(running)
    assert {h.status for h in load.hits} == {200}
    assert not [h for h in load.hits if h.stale or h.miscomputed]
