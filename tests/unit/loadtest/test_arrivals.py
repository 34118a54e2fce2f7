"""Arrivals keep their rate and character, whatever the profile."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import instants, profile, stretched, unit_points
from loadtest.scenario import Burst, Flash, Ramp, Steady

SEED = np.random.SeedSequence(7)
rates = st.floats(0.5, 400.0)
seconds = st.floats(1.0, 40.0)


def distances(points):
    return np.diff(points, prepend=0.0)


@given(rates, seconds)
def test_constant_arrivals_lie_at_equal_distances(rate, duration):
    at = instants(Steady(kind="constant", rate=rate), duration, SEED)

    assert np.allclose(np.diff(at), 1.0 / rate)
    assert abs(len(at) - rate * duration) <= 1


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0, 4.0])
def test_gamma_arrivals_have_the_rate_and_the_cv_that_were_asked_for(cv):
    gaps = distances(unit_points("gamma", cv, 200_000, SEED))

    assert gaps.mean() == pytest.approx(1.0, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.04)


def test_poisson_counts_of_a_second_vary_as_their_mean():
    at = instants(Steady(kind="poisson", rate=50), 2000.0, SEED)

    counts = np.bincount(at.astype(int), minlength=2000)

    assert counts.mean() == pytest.approx(50, rel=0.02)
    assert counts.var() == pytest.approx(50, rel=0.12)


@given(rates, rates, seconds, st.sampled_from(["constant", "poisson", "gamma"]))
def test_instants_ascend_and_end_before_the_end(rate, to_rate, duration, spacing):
    arrivals = Ramp(kind="ramp", rate=rate, to_rate=to_rate, spacing=spacing, cv=2.0)

    at = instants(arrivals, duration, SEED)

    assert (np.diff(at) >= 0).all()
    assert len(at) == 0 or (at[0] >= 0 and at[-1] <= duration * (1 + 1e-9))


@given(rates, rates, seconds)
def test_a_ramp_has_as_many_arrivals_as_its_area(rate, to_rate, duration):
    arrivals = Ramp(kind="ramp", rate=rate, to_rate=to_rate, spacing="constant")

    at = instants(arrivals, duration, SEED)

    half = (at < duration / 2).sum()
    assert abs(len(at) - duration * (rate + to_rate) / 2) <= 1.001
    assert abs(half - duration / 2 * (3 * rate + to_rate) / 4) <= 1.001


def test_a_burst_is_as_high_and_as_long_as_it_was_asked_for():
    arrivals = Burst(kind="burst", rate=10, peak_rate=100, every_s=5, for_s=1, spacing="constant")

    counts = np.bincount(instants(arrivals, 12.0, SEED).astype(int), minlength=12)

    assert counts[[4, 9]].tolist() == [100, 100]
    assert sorted(set(counts.tolist())) == [10, 100]


def test_a_flash_crowd_rises_holds_and_falls():
    arrivals = Flash(
        kind="flash",
        rate=10,
        peak_rate=50,
        at_s=3,
        rise_s=1,
        hold_s=2,
        fall_s=4,
        spacing="constant",
    )

    counts = np.bincount(instants(arrivals, 15.0, SEED).astype(int), minlength=15)

    assert counts[:3].tolist() == [10, 10, 10]
    assert counts[4:6].tolist() == [50, 50]
    assert (np.diff(counts[6:10]) < 0).all()
    assert counts[11:].tolist() == [10] * 4


def test_a_profile_that_is_longer_than_the_run_is_cut():
    arrivals = Flash(kind="flash", rate=10, peak_rate=30, at_s=4, rise_s=4)

    assert profile(arrivals, 6.0)[-1] == (6.0, 20.0)


@given(st.lists(st.floats(0.0, 90.0), min_size=1, max_size=50))
def test_stretching_is_the_inverse_of_the_area(points):
    knots = [(0.0, 4.0), (5.0, 4.0), (5.0, 10.0), (10.0, 1.0), (40.0, 6.0)]
    at = stretched(np.sort(points), knots)

    area = np.select(
        [at <= 5, at <= 10],
        [4 * at, 20 + 10 * (at - 5) - 0.9 * (at - 5) ** 2],
        47.5 + (at - 10) + (at - 10) ** 2 / 12,
    )
    assert np.allclose(area, np.sort(points), atol=1e-6)


def test_the_same_seed_gives_the_same_instants():
    arrivals = Steady(kind="gamma", rate=20, cv=3)

    one, same = (instants(arrivals, 30.0, np.random.SeedSequence(1)) for _ in range(2))
    other = instants(arrivals, 30.0, np.random.SeedSequence(2))

    assert np.array_equal(one, same)
    assert len(one) != len(other) or not np.array_equal(one, other)
