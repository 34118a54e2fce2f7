"""The search for the highest rate ends near the truth, whatever the truth is."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.errors import ScenarioError
from loadtest.report.summary import report
from loadtest.saturate import stepping
from loadtest.scenario import Saturate
from loadtest.search import (
    Bracket,
    Probe,
    bracket,
    by_client,
    ended_at,
    next_rate,
    refusals,
    step_s,
)
from tests.unit.loadtest.conftest import make_hits, make_scenario


def searched(settings, borne):
    probes = []
    while (rate := next_rate(probes, settings)) is not None:
        probes.append(borne(rate, len(probes)))
        assert len(probes) < 200
    return probes, bracket(probes, settings.tries)


@given(st.floats(0.5, 50_000), st.floats(1, 5000), st.floats(0.01, 0.3), st.integers(1, 3))
def test_it_ends_within_the_tolerance(truth, start, tolerance, tries):
    settings = Saturate(start_rate=start, tolerance=tolerance, tries=tries)

    probes, found = searched(settings, lambda rate, _: Probe(rate, rate <= truth))

    assert found.low <= truth < found.high
    assert found.high / found.low <= 1 + tolerance
    steps = abs(math.log2(truth / start)) + math.log2(math.log(2) / math.log1p(tolerance)) + 4
    assert len(probes) <= tries * steps


def test_one_bad_moment_does_not_decide():
    settings = Saturate(start_rate=10, tolerance=0.05, tries=2)

    _, found = searched(settings, lambda rate, i: Probe(rate, rate <= 90 and i % 3 != 0))

    assert 80 <= found.low <= 90


def test_a_client_that_fell_behind_is_given_more_tries():
    settings = Saturate(start_rate=10, max_rate=10, tries=2)

    probes, found = searched(settings, lambda rate, _: Probe(rate, rate < 10, valid=False))

    assert [p.rate for p in probes[:4]] == [10] * 4
    assert found.high == 10


def test_it_stops_at_the_highest_rate_that_may_be_tried():
    probes, found = searched(Saturate(start_rate=30, max_rate=100), lambda r, _: Probe(r, True))

    assert [probe.rate for probe in probes] == [30, 60, 100]
    assert (found.low, found.high) == (100, None)


def test_it_gives_up_on_a_server_that_bears_nothing():
    probes, found = searched(Saturate(start_rate=1, tries=1), lambda r, _: Probe(r, False))

    assert found.low is None
    assert probes[-1].rate < 0.11


def test_a_slow_rate_is_tried_for_longer():
    settings = Saturate(step_s=10)

    assert [step_s(rate, settings) for rate in (100, 2, 1, 0.01)] == [10, 10, 20, 100]


def test_a_step_that_ends_before_its_crowd_comes_is_refused():
    crowd = {"kind": "flash", "rate": 10, "peak_rate": 50, "at_s": 20}

    with pytest.raises(ScenarioError, match="its crowd comes at 21 s, a step ends at 10 s"):
        stepping(make_scenario(arrivals=crowd), 10.0)
    longer = stepping(make_scenario(arrivals=crowd, saturate={"step_s": 40}), 20.0)
    assert (longer.duration_s, longer.arrivals.peak_rate) == (40.0, 100.0)


def reasons(latency_ms, **how):
    return refusals(report(make_hits(latency_ms, **how)), Saturate())


def test_a_rate_is_refused_for_what_was_wrong():
    assert reasons([10.0] * 500) == []
    assert reasons([200.0] * 500)[0].startswith("p99 200.0 ms")
    assert any("failed" in r for r in reasons([10.0] * 500, outcome=[0] * 498 + [3] * 2))
    growing = reasons([i / 10 for i in range(900)])
    assert any("grew" in reason for reason in growing)
    assert reasons([10.0], outcome=6) == ["no right answer"]


@pytest.mark.parametrize(
    ("latency_ms", "lag_ms", "outcome", "client"),
    [(300.0, 290.0, 0, True), (300.0, 0.0, 0, False), (600.0, 290.0, 0, False)],
)
def test_lateness_of_the_client_is_not_laid_on_the_server(latency_ms, lag_ms, outcome, client):
    value = report(make_hits([latency_ms] * 100, lag_ms=lag_ms, outcome=outcome))

    assert by_client(value, Saturate()) is client


def tried(*how):
    return [{"rate": 20.0, "valid": valid, "by_client": client} for valid, client in how]


@pytest.mark.parametrize(
    ("found", "steps", "end"),
    [
        (Bracket(10.0, 20.0), tried((True, False), (False, False)), "server"),
        (Bracket(10.0, 20.0), tried((False, False), (False, True)), "shared"),
        (Bracket(10.0, 20.0), tried((False, True), (False, True)), "client"),
        (Bracket(10.0, None), [], "max_rate"),
        (Bracket(None, 20.0), tried((True, False)), "nothing was borne"),
    ],
)
def test_it_says_what_it_ended_at(found, steps, end):
    assert ended_at(found, steps, stopped=False) == end
    assert ended_at(found, steps, stopped=True) == "broken off"
