"""Scenarios and hits for tests of the load tester, made without a server."""

from typing import Any

import numpy as np
import pytest

from loadtest.hits import Hits
from loadtest.outcomes import Outcome
from loadtest.scenario import Scenario


def make_scenario(**changes: Any) -> Scenario:
    """Ten seconds without warm-up, three tasks."""
    value = {"duration_s": 10.0, "warmup_s": 0.0, "tasks": {"names": ["a", "b", "c"]}, **changes}
    return Scenario.model_validate(value)


def make_hits(
    latency_ms,
    *,
    scenario: Scenario | None = None,
    outcome=Outcome.OK,
    lag_ms=0.0,
    tasks=0,
    scheduled=None,
    stages=None,
    **header: Any,
) -> Hits:
    """Hits with these latencies, evenly over the scenario; scalars hold for all."""
    scenario = scenario or make_scenario()
    latency = np.asarray(latency_ms, np.float64) / 1000.0
    count = len(latency)
    at = np.arange(count) * scenario.duration_s / max(count, 1) if scheduled is None else scheduled
    at = np.asarray(at, np.float64)
    outcomes = np.broadcast_to(np.asarray(outcome, np.int8), count).copy()
    sent = at + np.asarray(lag_ms) / 1000.0
    columns = {
        "row": np.arange(count),
        "scheduled": at,
        "sent": sent,
        "done": at + latency,
        "status": np.where(outcomes == Outcome.OK, 200, 503).astype(np.int16),
        "outcome": outcomes,
        "wrong": np.zeros(count, np.int8),
        "received": np.full(count, 10, np.int32),
        "retry_after": np.full(count, np.nan, np.float32),
        "tasks": np.broadcast_to(np.asarray(tasks, np.int32), count).reshape(-1, 1).copy(),
        "image": np.zeros(count, np.int32),
        "worker": np.zeros(count, np.int16),
    }
    held = {
        "began": "2026-01-01T00:00:00+00:00",
        "interrupted": False,
        "took_s": scenario.duration_s,
        "clients": [{"cpu": 0.1, "connections": 1}],
        "changes": [],
        "server": {"counters": {}, "histograms": {}},
        "learned": 0,
        "planned": count,
        "images": ["x.jpg"],
        "image_bytes_mean": 1000.0,
        "tasks": list(scenario.tasks.names),
        "tasks_known": len(scenario.tasks.names),
        "tasks_effective": 3.0,
        "scenario": scenario.model_dump(mode="json"),
        "environment": {"processor": "p", "cpus": 2, "system": "s"},
        **header,
    }
    return Hits(held, columns, stages or {})


@pytest.fixture
def scenario() -> Scenario:
    return make_scenario()
