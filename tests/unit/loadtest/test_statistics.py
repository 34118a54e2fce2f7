"""Percentiles are those of numpy, and intervals hold what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.statistics import Blocks, interval, jain, percentile, percentiles, summary, trend

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


@given(st.lists(st.floats(0.0, 1000.0), min_size=2, max_size=60), st.floats(1.0, 99.0))
def test_a_redrawn_percentile_is_that_of_the_redrawn_sample(of, q):
    of = np.array(of)
    at = np.arange(len(of)) / 7.0
    draw = Blocks(at, of).replicates((q,), 1, seed=5)[0, 0]

    blocks = int(at.max()) + 1
    rng = np.random.default_rng((20_260_101, 5))
    chosen = rng.integers(blocks, size=blocks)
    sample = np.concatenate([of[at.astype(int) == block] for block in chosen])

    assert draw == pytest.approx(np.percentile(sample, q, method="inverted_cdf"))


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    at = np.arange(1000) / 20.0
    held = 0
    for _ in range(60):
        low, high = interval(Blocks(at, rng.exponential(1.0, 1000)).replicates((50.0,), 200))
        held += low <= np.log(2.0) <= high

    assert held >= 50


def test_seconds_that_share_their_luck_widen_the_interval():
    rng = np.random.default_rng(1)
    at = np.arange(2000) / 20.0
    alone = rng.exponential(1.0, 2000)
    together = np.repeat(rng.exponential(1.0, 100), 20)

    widths = [
        np.diff(interval(Blocks(at, of).replicates((50.0,), 300)))[0] for of in (alone, together)
    ]

    assert widths[1] > 2 * widths[0]


def test_sums_of_redrawn_blocks_keep_their_mean():
    at = np.arange(600) / 10.0
    sums = Blocks(at, np.ones(600)).sums(500)

    assert sums.mean() == pytest.approx(600)
    assert interval(np.array([np.nan])) != interval(np.array([1.0]))
