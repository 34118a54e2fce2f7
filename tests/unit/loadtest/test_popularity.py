"""Laws of popularity are what their names say, and their traps are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.popularity import draws, effective, odds
from loadtest.scenario import Popularity

SEED = np.random.SeedSequence(3)


@pytest.mark.parametrize(
    ("law", "tasks", "number"),
    [
        ({"kind": "uniform"}, 1000, 1000.0),
        ({"kind": "zipf", "s": 0.9}, 1000, 277.0),
        ({"kind": "zipf", "s": 1.0}, 1000, 180.0),
        ({"kind": "zipf", "s": 1.2}, 5000, 119.0),
        ({"kind": "geometric", "ratio": 1.5}, 200, 6.7),
        ({"kind": "geometric", "ratio": 1.1}, 1000, 28.5),
        ({"kind": "power", "alpha": 1.0}, 200, 200.0),
        ({"kind": "power", "alpha": 0.3}, 1000, 373.0),
        ({"kind": "power", "alpha": 0.1}, 200, 13.0),
    ],
)
def test_the_effective_number_is_that_of_the_literature(law, tasks, number):
    assert effective(odds(Popularity(**law), tasks)) == pytest.approx(number, rel=0.03)


def test_zipf_is_no_geometric_law():
    of = odds(Popularity(kind="zipf", s=1.5), 50)

    assert of[0] / of[1] == pytest.approx(2**1.5)
    assert of[9] / of[19] == pytest.approx(2**1.5)


@given(
    st.sampled_from(["uniform", "zipf", "geometric", "power", "hot"]),
    st.integers(1, 400),
    st.floats(0.1, 3.0),
)
def test_odds_are_odds(kind, tasks, x):
    law = Popularity(kind=kind, s=x, ratio=1.0 + x, alpha=x, hot=3, hot_share=0.5)

    of = odds(law, tasks)

    assert of.sum() == pytest.approx(1.0)
    assert (of >= 0).all()
    assert 0.999 <= effective(of) <= tasks * 1.001


def test_draws_follow_the_law():
    law = Popularity(kind="zipf", s=1.0)

    drawn = draws(law, 20, np.zeros(200_000), 1, SEED)

    seen = np.sort(np.bincount(drawn.ravel(), minlength=20))[::-1] / 200_000
    assert np.allclose(seen, odds(law, 20), rtol=0.05)


def test_a_hot_set_has_its_share_and_drifts():
    law = Popularity(kind="hot", hot=2, hot_share=0.8, drift_s=10.0)
    at = np.linspace(0.0, 30.0, 30_000, endpoint=False)

    drawn = draws(law, 50, at, 1, SEED).ravel()

    favourites = []
    for epoch in range(3):
        counts = np.bincount(drawn[(at // 10) == epoch], minlength=50)
        favourites.append(set(np.argsort(counts)[-2:].tolist()))
        assert np.sort(counts)[-2:].sum() / counts.sum() == pytest.approx(0.8, abs=0.02)
    assert favourites[0] != favourites[1] != favourites[2]


def test_without_drift_favourites_stay():
    law = Popularity(kind="geometric", ratio=2.0)
    drawn = draws(law, 30, np.linspace(0, 100, 20_000), 1, SEED).ravel()

    first, last = drawn[:10_000], drawn[10_000:]

    assert np.bincount(first).argmax() == np.bincount(last).argmax()


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(0, 10), st.floats(1.1, 50.0))
def test_the_tasks_of_a_request_are_different(fan_out, more, ratio):
    law = Popularity(kind="geometric", ratio=ratio)

    drawn = draws(law, fan_out + more, np.zeros(40), fan_out, SEED)

    assert drawn.shape == (40, fan_out)
    assert all(len(set(row)) == fan_out for row in drawn.tolist())
    assert 0 <= drawn.min() <= drawn.max() < fan_out + more


def test_round_robin_asks_for_every_task_in_turn():
    drawn = draws(Popularity(kind="round_robin"), 5, np.zeros(10), 2, SEED)

    assert drawn.ravel().tolist() == [i % 5 for i in range(20)]
