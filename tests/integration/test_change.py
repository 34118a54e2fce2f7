"""One server on HAProxy with two replicas, under load all the time: what changes, hurts nobody."""

import asyncio
import os
import signal
import time

import pytest

from serving.launch import processes
from tests.bench.hardening.churn import TASKS, publisher
from tests.bench.hardening.load import Load, telling
from tests.bench.hardening.probe import replicas, request, server

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The server, for every test of this file."""
    folder = tmp_path_factory.mktemp("change")
    with server(store=f"file://{folder}", replicas=2) as one:
        yield one


def under_load(running, act) -> Load:
    """Run `act(publisher)` while four clients ask for every task; the load, with its hits."""

    async def both() -> Load:
        async with publisher(running) as by:
            load = Load(running, TASKS, by.known, clients=4)
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


def test_publishing_under_load_fails_nothing_and_nothing_is_stale(running, nano):
    """Every answer names a release that it was computed by, and none that had been replaced."""

    async def publish(by):
        for number in (2, 3, 4):
            for i, task in enumerate(TASKS):
                await by.publish(task, telling(nano, task, number, seed=i))

    load = under_load(running, publish)

    assert len(load.hits) > 50
    assert {h.first for h in load.hits} == {200}
    assert not [h for h in load.hits if h.stale or h.miscomputed]


def test_a_killed_replica_costs_one_retry_and_is_replaced(running):
    """Its clients try once more and are answered; soon there are two replicas again."""
    known = set(replicas(running))
    victim = min(known)

    async def kill(by):
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len(set(replicas(running)) - known) < 1:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        while b"rootstock_replicas_scraped 2.0" not in request(running, "GET", "/metrics")[1]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)

    load = under_load(running, kill)

    assert {h.status for h in load.hits} == {200}
    assert not [h for h in load.hits if h.stale or h.miscomputed]


def test_a_server_that_stops_under_load_answers_or_closes_its_door(running):
    """No 404 as if tasks had gone, nothing accepted and left unanswered, nothing left behind."""

    async def stop(by):
        await asyncio.to_thread(running.stop)

    load = under_load(running, stop)

    refused = [h for h in load.hits if h.first == 0]
    assert {h.first for h in load.hits} <= {0, 200, 503}
    assert {h.first_said for h in refused} <= {"ClientConnectorError"}
    assert processes(running.session) == []
