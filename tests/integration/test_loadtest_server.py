"""The load tester against our own server, while releases come and go."""

import asyncio

import pytest

from loadtest.attack import attack
from loadtest.report.summary import report
from loadtest.scenario import Scenario
from tests.bench.hardening.load import telling
from tests.bench.hardening.probe import request, server

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TASKS = ("one", "two", "three")


@pytest.fixture(scope="module")
def artifacts(nano, tmp_path_factory):
    """Two releases of every task; each answers with a label of its own."""
    folder = tmp_path_factory.mktemp("artifacts")
    for i, task in enumerate(TASKS):
        for number in (1, 2):
            (folder / f"{task}-{number}.safetensors").write_bytes(telling(nano, task, number, i))
    return folder


@pytest.fixture(scope="module")
def running(artifacts, tmp_path_factory):
    """Two replicas that have the first releases."""
    with server(store=f"file://{tmp_path_factory.mktemp('store')}", replicas=2) as one:
        for task in TASKS:
            data = (artifacts / f"{task}-1.safetensors").read_bytes()
            assert request(one, "PUT", f"/v1/tasks/{task}?wait=true", data)[0] == 201
        yield one


def attacked(running, **changes):
    value = {
        "duration_s": 3.0,
        "warmup_s": 0.0,
        "arrivals": {"kind": "poisson", "rate": 15.0},
        "images": {"count": 4, "sizes": [{"width": 80, "height": 60}]},
        "target": {"url": running.url},
        **changes,
    }
    return report(asyncio.run(attack(Scenario.model_validate(value))))


def test_churn_makes_no_request_fail_and_no_answer_wrong(running, artifacts):
    churn = {
        "publish_every_s": 1.0,
        "activate_every_s": 0.6,
        "retire_every_s": 2.5,
        "artifacts": str(artifacts),
    }

    found = attacked(running, churn=churn, duration_s=7.0)

    assert {change["kind"] for change in found["changes"]} >= {"publish", "rollback", "retire"}
    assert {change["status"] for change in found["changes"]} <= {200, 201}
    assert found["wrong"] == {}
    assert found["failed"] == 0, found["outcomes"]
    assert found["outcomes"]["ok"] > 50
    assert set(found["stages_ms"]) == {"decode", "queue", "compute", "elsewhere"}


def test_every_kind_of_request_is_answered_as_it_should_be(running):
    found = attacked(
        running,
        tasks={"fan_out": 2, "unknown_share": 0.2},
        images={"count": 4, "corrupt_share": 0.2, "sizes": [{"width": 80, "height": 60}]},
    )

    assert set(found["outcomes"]) == {"ok", "expected"}
    assert found["server"]["counters"]["rootstock_requests_total"]


def test_the_inference_protocol_is_spoken_with_our_own_server(running):
    found = attacked(running, target={"url": running.url, "kind": "oip"})

    assert set(found["outcomes"]) == {"ok"}
    assert found["tasks"]["asked"] == 3
