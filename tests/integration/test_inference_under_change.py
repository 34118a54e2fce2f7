"""Two replicas on HAProxy, under load all the time: what changes, hurts nobody.

On the server of `conftest.py`, which the last test stops.
"""

import asyncio
import json
import os
import signal
import time

import pytest

from loadtest.attack import attack
from loadtest.report.summary import report
from loadtest.scenario import Scenario
from serving.launch import processes
from tests.bench.hardening.churn import TASKS, publisher
from tests.bench.hardening.load import Load, telling
from tests.bench.hardening.probe import replicas, request

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LOADED = ("one", "two", "three")  # tasks of the load tester


def under_load(pair, act) -> Load:
    """Run `act(publisher)` while four clients ask for every task; the load, with its hits."""

    async def both() -> Load:
        async with publisher(pair) as by:
            load = Load(pair, TASKS, by.known, clients=4)
            for task, data in by_task.items():
                await by.publish(task, data)
            async with load.running():
                await asyncio.sleep(1)
                await act(by)
                await asyncio.sleep(0.5)
            return load

    return asyncio.run(both())


by_task: dict[str, bytes] = {}


@pytest.fixture(scope="module", autouse=True)
def _first_releases(nano):
    by_task.update({task: telling(nano, task, 1, seed=i) for i, task in enumerate(TASKS)})


@pytest.fixture(scope="module")
def artifacts(nano, tmp_path_factory):
    """Two releases of every task; each answers with a label of its own."""
    folder = tmp_path_factory.mktemp("artifacts")
    for i, task in enumerate(LOADED):
        for number in (1, 2):
            (folder / f"{task}-{number}.safetensors").write_bytes(telling(nano, task, number, i))
    return folder


@pytest.fixture(scope="module")
def published(pair, artifacts):
    """The server, with the first releases."""
    for task in LOADED:
        data = (artifacts / f"{task}-1.safetensors").read_bytes()
        assert request(pair, "PUT", f"/v1/tasks/{task}?wait=true", data)[0] == 201
    return pair


def attacked(running, **changes):
    """The load tester's report of a short load on this server."""
    value = {
        "duration_s": 3.0,
        "warmup_s": 0.0,
        "arrivals": {"kind": "poisson", "rate": 15.0},
        "tasks": {"names": LOADED},
        "images": {"count": 4, "sizes": [{"width": 80, "height": 60}]},
        "target": {"url": running.url},
        **changes,
    }
    return report(asyncio.run(attack(Scenario.model_validate(value))))


def test_churn_makes_no_request_fail_and_no_answer_wrong(published, artifacts):
    """The load tester publishes, rolls back and retires by itself, while it checks answers."""
    churn = {
        "publish_every_s": 1.0,
        "activate_every_s": 0.6,
        "retire_every_s": 2.5,
        "artifacts": str(artifacts),
    }

    found = attacked(published, churn=churn, duration_s=7.0)

    assert {change["kind"] for change in found["changes"]} >= {"publish", "rollback", "retire"}
    assert {change["status"] for change in found["changes"]} <= {200, 201}
    assert found["wrong"] == {}
    assert found["failed"] == 0, found["outcomes"]
    assert found["outcomes"]["ok"] > 50
    assert set(found["stages_ms"]) == {"decode", "queue", "compute", "elsewhere"}


def test_every_kind_of_request_is_answered_as_it_should_be(published):
    """Of all tasks that the server lists, at once and with some that there are not."""
    found = attacked(
        published,
        tasks={"fan_out": 2, "unknown_share": 0.2},
        images={"count": 4, "corrupt_share": 0.2, "sizes": [{"width": 80, "height": 60}]},
    )

    assert set(found["outcomes"]) == {"ok", "expected"}
    assert found["server"]["counters"]["rootstock_requests_total"]


def test_the_load_tester_speaks_the_inference_protocol_with_our_own_server(published):
    """And asks for every task that the server's index holds."""
    tasks = json.loads(request(published, "GET", "/v1/tasks")[1])["items"]

    found = attacked(published, target={"url": published.url, "kind": "oip"}, tasks={})

    assert set(found["outcomes"]) == {"ok"}
    assert found["tasks"]["asked"] == len(tasks) >= len(LOADED)


def test_publishing_under_load_fails_nothing_and_nothing_is_stale(pair, nano):
    """Every answer names a release that it was computed by, and none that had been replaced."""

    async def publish(by):
        for number in (2, 3, 4):
            for i, task in enumerate(TASKS):
                await by.publish(task, telling(nano, task, number, seed=i))

    load = under_load(pair, publish)

    assert len(load.hits) > 50
    assert {h.first for h in load.hits} == {200}
    assert not [h for h in load.hits if h.stale or h.miscomputed]


def test_a_killed_replica_costs_one_retry_and_is_replaced(pair):
    """Its clients try once more and are answered; soon there are two replicas again."""
    known = set(replicas(pair))
    victim = min(known)

    async def kill(by):
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len(set(replicas(pair)) - known) < 1:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        while b"rootstock_replicas_scraped 2.0" not in request(pair, "GET", "/metrics")[1]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)

    load = under_load(pair, kill)

    assert {h.status for h in load.hits} == {200}
    assert not [h for h in load.hits if h.stale or h.miscomputed]


def test_a_server_that_stops_under_load_answers_or_closes_its_door(pair):
    """No 404 as if tasks had gone, nothing accepted and left unanswered, nothing left behind."""

    async def stop(by):
        await asyncio.to_thread(pair.stop)

    load = under_load(pair, stop)

    refused = [h for h in load.hits if h.first == 0]
    assert {h.first for h in load.hits} <= {0, 200, 503}
    assert {h.first_said for h in refused} <= {"ClientConnectorError"}
    assert processes(pair.session) == []
