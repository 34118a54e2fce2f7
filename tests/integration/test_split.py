"""Topology `split` on HAProxy: two doors, two engines, and what happens to them under load."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters_store import artifact
from serving.app import environment
from serving.config import Settings
from serving.launch import free_port, processes, run
from tests.bench.hardening.churn import TASKS, publisher
from tests.bench.hardening.load import Load, picture, telling
from tests.bench.hardening.probe import request
from tests.conftest import make_adapter

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGE = {"Content-Type": "image/png"}
REDEPLOY = """
import sys, ray
from ray import serve
from serving.app import APPLICATION, build
from serving.config import Settings
ray.init(address=sys.argv[1])
serve.run(build(Settings.model_validate_json(sys.argv[2])), name=APPLICATION, route_prefix="/")
"""


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


def engines(running) -> set[int]:
    """Process numbers of the engines."""
    found = set()
    for pid in processes(running.session):
        try:
            if b"ServeReplica:rootstock:engine" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
        except OSError:
            continue
    return found


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
    (port,) = (running.paths.folder / "session_latest").glob("gcs_server_port_*")
    changed = running.settings.model_copy(update={"budget_s": 29.0})
    before = engines(running)

    async def redeploy() -> Load:
        async with publisher(running) as by:
            for i, task in enumerate(TASKS):
                await by.publish(task, telling(nano, task, 2, seed=i))
            load = Load(running, TASKS, by.known, clients=2)
            async with load.running():
                given = f"127.0.0.1:{port.read_text().strip()}", changed.model_dump_json()
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-c",
                    REDEPLOY,
                    *given,
                    env=os.environ | environment(running.settings, running.paths),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
                said, _ = await process.communicate()
                assert process.returncode == 0, said.decode()[-2000:]
                await asyncio.sleep(1)
            return load

    load = asyncio.run(redeploy())

    assert not before & engines(running)
    assert {h.status for h in load.hits} == {200}
    assert not [h for h in load.hits if h.stale or h.miscomputed]
