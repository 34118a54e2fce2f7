"""Overload and recovery are read off one run."""

import numpy as np
import pytest

from loadtest.arrivals import instants
from loadtest.outcomes import Outcome
from loadtest.overload import outcome_of, overloading, recovery_s
from tests.unit.loadtest.conftest import make_hits, make_scenario

SCENARIO = make_scenario(
    warmup_s=2.0,
    duration_s=20.0,
    saturate={"step_s": 4.0},
    arrivals={"kind": "constant", "rate": 1},
)


def pressed(latency, outcome=Outcome.OK):
    scenario = overloading(SCENARIO, 100.0, 2.0)
    at = np.arange(1000) / 100.0  # ten seconds: two, four beyond the knee, four of rest
    return make_hits(latency(at), scenario=scenario, scheduled=at, outcome=outcome)


def test_the_load_is_a_step_up_and_a_step_down():
    scenario = overloading(SCENARIO, 100.0, 2.0)

    at = instants(scenario.arrivals, scenario.duration_s, np.random.SeedSequence(0))

    counts = np.bincount(at.astype(int), minlength=10)
    assert counts.tolist() == pytest.approx([50, 50, 200, 200, 200, 200, 50, 50, 50, 50], abs=3)


def test_figures_are_of_the_overload_alone():
    outcome = np.where((np.arange(1000) >= 200) & (np.arange(1000) % 2 == 0), 3, 0)

    found = outcome_of(pressed(lambda at: np.where(at < 6.0, 80.0, 10.0), outcome), 2.0)

    assert found["shed_share"] == pytest.approx(0.5, abs=0.01)
    assert found["p50_ms"] == pytest.approx(80.0)
    assert found["refused_p99_ms"] == pytest.approx(80.0)


@pytest.mark.parametrize(("until", "expected"), [(6.0, 0.0), (7.5, 1.49), (9.99, None)])
def test_recovery_is_over_when_the_last_bad_answer_is(until, expected):
    hits = pressed(lambda at: np.where((at > 2.0) & (at < until), 500.0, 10.0))

    found = recovery_s(hits, 6.0)

    assert found == (None if expected is None else pytest.approx(expected, abs=0.02))
