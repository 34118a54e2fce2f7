"""Percentiles are those of numpy, and intervals hold what they say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.statistics import (
    Blocks,
    _student,
    interval,
    jain,
    percentile,
    percentiles,
    summary,
    trend,
)

values = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=300)


@given(values, st.floats(0.1, 99.99))
def test_a_percentile_is_numpy_s_and_one_that_occurred(of, q):
    of = np.array(of)

    found = percentile(of, q)

    assert found == np.percentile(of, q, method="inverted_cdf")
    assert found in of
    assert (of <= found).mean() >= q / 100 - 1e-9


def test_nothing_has_no_percentile():
    assert np.isnan(percentile(np.array([]), 99.0))
    assert all(np.isnan(percentiles(np.array([]), (50.0, 99.0))))
    assert summary(np.array([]))["count"] == 0


def test_a_summary_has_what_a_report_needs():
    found = summary(np.arange(1.0, 10_001.0))

    assert found["p50"] == 5000.0
    assert found["p99.9"] in (9990.0, 9991.0)
    assert (found["max"], found["count"]) == (10_000.0, 10_000)


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=50))
def test_jain_lies_between_one_nth_and_one(shares):
    assert 1 / len(shares) - 1e-9 <= jain(np.array(shares)) <= 1 + 1e-9


def test_jain_knows_the_extremes():
    assert jain(np.ones(7)) == pytest.approx(1.0)
    assert jain(np.array([1.0, 0, 0, 0])) == pytest.approx(0.25)
    assert np.isnan(jain(np.zeros(3)))


def test_a_trend_is_the_slope():
    at = np.linspace(0.0, 10.0, 50)

    assert trend(at, 3.0 * at + 1.0) == pytest.approx(3.0)
    assert trend(at[:2], at[:2]) == 0.0


@given(st.lists(st.floats(0.0, 1000.0), min_size=2, max_size=200), st.floats(1.0, 99.0))
def test_a_redrawn_percentile_is_that_of_the_redrawn_sample(of, q):
    of = np.array(of)
    at = np.arange(len(of)) / 7.0
    blocks = Blocks(at, of)
    draw = blocks.replicates((q,), 1, seed=5)[0, 0]

    seconds, length = int(at.max()) + 1, blocks.length
    rng = np.random.default_rng((20_260_101, 5))
    begins = rng.integers(seconds, size=math.ceil(seconds / length))
    chosen = [(begin + i) % seconds for begin in begins for i in range(length)][:seconds]
    sample = np.concatenate([of[at.astype(int) == second] for second in chosen])

    assert draw == pytest.approx(np.percentile(sample, q, method="inverted_cdf"))


def chance(at, of, q=50.0, draws=200):
    blocks = Blocks(at, of)
    return interval(blocks.replicates((q,), draws), blocks.count)


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    at = np.arange(1000) / 20.0
    held = 0
    for _ in range(60):
        low, high = chance(at, rng.exponential(1.0, 1000))
        held += low <= np.log(2.0) <= high

    assert held >= 54


def wandering(rng, seconds, slow_s):
    """Latencies of a server whose speed wanders: alike for about so many seconds."""
    stay = np.exp(-1.0 / slow_s)
    pushes = rng.normal(0.0, np.sqrt(1.0 - stay**2), seconds)
    level = np.zeros(seconds)
    for i in range(1, seconds):
        level[i] = stay * level[i - 1] + pushes[i]
    at = np.sort(rng.uniform(0.0, seconds, 20 * seconds))
    return at, np.exp(0.5 * level[at.astype(int)] + 0.3 * rng.normal(size=len(at)))


def test_an_interval_does_not_believe_that_seconds_are_independent():
    """Blocks of one second alone held the truth in half of such runs."""
    rng = np.random.default_rng(3)
    runs = [wandering(rng, 90, 3.0) for _ in range(40)]

    assert np.median([Blocks(*run).length for run in runs]) >= 4
    assert sum(low <= 1.0 <= high for low, high in (chance(*run) for run in runs)) >= 30


def test_seconds_that_share_their_luck_widen_the_interval():
    rng = np.random.default_rng(1)
    at = np.arange(2000) / 20.0
    alone = rng.exponential(1.0, 2000)
    together = np.repeat(rng.exponential(1.0, 100), 20)

    widths = [np.diff(chance(at, of))[0] for of in (alone, together)]

    assert widths[1] > 2 * widths[0]


def test_nothing_is_said_of_chance_in_a_run_of_a_few_seconds():
    at = np.arange(400) / 100.0

    assert all(np.isnan(chance(at, np.ones(400))))
    assert chance(at * 2, np.ones(400)) == (1.0, 1.0)


def test_few_blocks_make_an_interval_wider():
    draws = np.random.default_rng(0).normal(size=4000)

    few, many = interval(draws, 6), interval(draws, 10_000)

    assert many == pytest.approx((-1.96, 1.96), abs=0.1)
    assert few[1] - few[0] > 1.3 * (many[1] - many[0])


@given(st.floats(4.0, 1000.0))
def test_student_s_t_is_near_the_tables(freedom):
    table = {4: 2.776, 5: 2.571, 7: 2.365, 10: 2.228, 20: 2.086, 60: 2.000, 1000: 1.962}

    for known, t in table.items():
        assert _student(1.959964, known) == pytest.approx(t, abs=0.02)
    assert 1.959 < _student(1.959964, freedom) < 2.8


def test_sums_and_means_of_redrawn_blocks_keep_their_mean():
    at = np.arange(600) / 10.0
    blocks = Blocks(at, np.ones(600))

    assert blocks.sums(500).mean() == pytest.approx(600)
    assert blocks.means(50).tolist() == [1.0] * 50
    assert len(Blocks(np.empty(0), np.empty(0)).means(5)) == 0
