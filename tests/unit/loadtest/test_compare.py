"""Comparisons show differences that are there, and none that are not."""

import numpy as np

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
    for row in comparison(run(40.0, 1), run(50.0, 2))["rows"][:4]:
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
    assert {r["figure"]: r["verdict"] for r in comparison(calm, shedding)["rows"]}[
        "failed /s"
    ] == "not known"


def test_runs_of_different_circumstances_are_told_apart():
    other = make_scenario(duration_s=60.0, arrivals={"kind": "poisson", "rate": 99}, seed=5)
    environment = {"processor": "q", "cpus": 2, "system": "s"}

    found = comparison(run(40.0, 1), run(40.0, 2, other, environment=environment))["differences"]

    assert [line.partition(":")[0] for line in found] == ["arrivals", "processor"]
