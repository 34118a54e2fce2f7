"""Comparisons show differences that are there, and none that are not."""

import json

import numpy as np
import pytest

from loadtest.compare import comparison, worse
from loadtest.outcomes import Outcome
from tests.unit.loadtest.conftest import make_hits, make_scenario

LONG = make_scenario(duration_s=60.0)


def run(mean_ms, seed, scenario=LONG, **how):
    latency = np.random.default_rng(seed).gamma(4.0, mean_ms / 4.0, 900)
    return make_hits(latency, scenario=scenario, **how)


def verdicts(a, b):
    return {row["figure"]: row["verdict"] for row in comparison(a, b)["rows"]}


def test_two_runs_of_the_same_show_no_difference():
    found = verdicts(run(40.0, 1), run(40.0, 2))

    assert list(found.values()).count("no difference shown") >= 3
    assert "worse" not in found.values()


def test_a_slower_run_is_worse_and_a_faster_one_better():
    slow, fast = run(60.0, 1), run(40.0, 2)

    assert verdicts(fast, slow)["p50 ms"] == "worse"
    assert verdicts(slow, fast)["p99 ms"] == "better"
    assert verdicts(slow, fast)["goodput /s"] == "better"


def test_a_ratio_lies_in_its_interval():
    for row in comparison(run(40.0, 1), run(50.0, 2))["rows"][:5]:
        assert row["low"] <= row["ratio"] <= row["high"]


def test_only_what_was_shown_counts_as_worse():
    value = comparison(run(40.0, 1), run(60.0, 2))

    assert "p50 ms" in worse(value, 0.3)
    assert worse(value, 1.0) == []


def test_failures_are_compared_too():
    outcome = np.where(np.arange(900) % 10 == 0, Outcome.SHED, Outcome.OK)
    calm, shedding = run(40.0, 1), run(40.0, 2, outcome=outcome)

    rows = {row["figure"]: row for row in comparison(shedding, calm)["rows"]}

    assert rows["failed /s"]["verdict"] == "better"
    assert rows["in time, of all"]["verdict"] == "better"


def failing(count):
    """A run in which so many failed, each in a second of its own."""
    outcome = np.full(900, Outcome.OK)
    outcome[np.linspace(7, 890, count).astype(int)] = Outcome.SERVER_ERROR
    return run(40.0, 2, outcome=outcome)


@pytest.mark.parametrize(("count", "shown"), [(0, False), (2, False), (9, True), (90, True)])
def test_failures_where_there_were_none_are_worse_if_they_are_more_than_chance(count, shown):
    value = comparison(run(40.0, 1), failing(count))

    assert verdicts(run(40.0, 1), failing(count))["failed /s"] == (
        "worse" if shown else "no difference shown"
    )
    assert ("failed /s" in worse(value, 0.5)) is shown
    json.dumps(value, allow_nan=False)


def test_a_run_without_any_right_answer_is_worse():
    value = comparison(run(40.0, 1), run(40.0, 2, outcome=Outcome.SERVER_ERROR))

    assert {"goodput /s", "failed /s", "in time, of all"} <= set(worse(value, 0.5))


def test_a_run_that_says_nothing_is_not_compared_without_a_word():
    late = comparison(run(40.0, 1), run(40.0, 2, lag_ms=50.0))["invalid"]
    short = make_scenario(duration_s=3.0)
    brief = comparison(run(40.0, 1, short), run(40.0, 2, short))["invalid"]

    assert (late["a"], len(late["b"])) == ([], 1)
    assert "too short" in brief["a"][0]


def test_runs_of_different_circumstances_are_told_apart():
    other = make_scenario(duration_s=60.0, arrivals={"kind": "poisson", "rate": 99}, seed=5)
    environment = {"processor": "q", "cpus": 2, "system": "s"}

    found = comparison(run(40.0, 1), run(40.0, 2, other, environment=environment))["differences"]

    assert [line.partition(":")[0] for line in found] == ["arrivals", "processor"]
