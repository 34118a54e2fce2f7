"""The numbers of benchmarks: turns, quartiles, ratios, popularity, and answers before speeds."""

import numpy as np
import pytest

from rootstock.bench.merge import break_even
from rootstock.bench.proof import WrongAnswerError, distance, hold
from rootstock.bench.tasks import shares
from rootstock.bench.turns import (
    Spread,
    Turn,
    order,
    percentile,
    quotients,
    speed,
    tail,
    tails_apart,
    take_turns,
)


def test_quartiles_are_those_of_known_numbers():
    spread = Spread.of([5.0, 1.0, 3.0, 2.0, 4.0])

    assert (spread.low, spread.median, spread.high) == (2.0, 3.0, 4.0)
    assert Spread.of([1.0, 2.0]).quartiles == [1.25, 1.75]


def test_a_speed_is_the_median_of_ratios_within_rounds_not_a_ratio_of_medians():
    base = [Turn(s, None) for s in (1.0, 10.0, 100.0)]
    arm = [Turn(s, None) for s in (2.0, 5.0, 125.0)]

    assert speed(base, arm).median == 0.8
    assert quotients([1.0, 10.0, 100.0], [2.0, 5.0, 125.0]) == [0.5, 2.0, 0.8]


def test_every_arm_has_one_turn_a_round_and_each_is_first_equally_often():
    names, said = ["a", "b", "c"], []
    arms = {name: lambda name=name: said.append(name) for name in names}

    turns = take_turns(arms, 6)

    rounds = [said[i : i + 3] for i in range(0, 18, 3)]
    assert all(sorted(r) == names for r in rounds)
    assert all(sum(r[0] == name for r in rounds) == 2 for name in names)
    assert len({tuple(r) for r in rounds}) == 6  # and in every order
    assert [len(t) for t in turns.values()] == [6, 6, 6]


def test_a_turn_is_timed_by_the_clock_it_is_given_and_keeps_its_result():
    ticks = iter([0.0, 1.0, 1.0, 3.5])

    turns = take_turns({"x": lambda: "done"}, 2, clock=lambda: next(ticks))

    assert turns == {"x": [Turn(1.0, "done"), Turn(2.5, "done")]}


def test_the_order_of_one_arm_is_that_arm():
    assert [order(["only"], i) for i in range(3)] == [["only"]] * 3


def test_a_tail_is_interpolated_between_neighbours():
    assert percentile(list(range(101)), 99.0) == 99.0
    assert percentile([0.0, 1.0], 99.0) == pytest.approx(0.99)


def test_a_tail_is_that_of_all_runs_together_not_the_largest_of_each():
    runs = [[1.0] * 99 + [9.0]] * 5
    twice = [[2 * value for value in run] for run in runs]

    assert tail(runs, 98.0) == 1.0
    assert tail([[float(i)] for i in range(101)], 99.0) == 99.0
    spread = tails_apart(twice, runs, 99.0)
    assert (spread.low, spread.median, spread.high) == (2.0, 2.0, 2.0)


def test_quartiles_of_a_tail_tell_how_much_hangs_on_single_runs():
    calm, rough = [[1.0] * 50] * 4, [[1.0] * 50] * 3 + [[5.0] * 50]

    spread = tails_apart(rough, calm, 99.0)

    assert spread.median == 5.0
    assert (spread.low, spread.high) == (1.0, 5.0) or spread.low == 5.0
    assert tails_apart(rough, rough, 99.0).quartiles == [1.0, 1.0]  # runs are drawn in pairs


def test_zipf_is_the_true_finite_one():
    found = shares(4, "zipf")

    np.testing.assert_allclose(found, np.array([12, 6, 4, 3]) / 25)
    assert shares(10_000, "zipf").sum() == pytest.approx(1.0)
    assert shares(10_000, "zipf")[0] / shares(10_000, "zipf")[9_999] == pytest.approx(10_000)


def test_uniform_gives_every_task_the_same():
    np.testing.assert_allclose(shares(5, "uniform"), 0.2)


def test_drawn_tasks_are_as_popular_as_their_shares_say():
    p = shares(10, "zipf")
    drawn = np.random.default_rng(0).choice(10, 50_000, p=p)

    np.testing.assert_allclose(np.bincount(drawn, minlength=10) / 50_000, p, atol=0.01)


def test_merging_pays_from_the_least_size_after_which_it_always_does():
    assert break_even([(1, 0.8), (2, 1.1), (4, 0.9), (8, 1.0), (16, 1.2)]) == 8
    assert break_even([(1, 1.0), (2, 1.5)]) == 1
    assert break_even([(1, 1.5), (2, 0.99)]) is None


def answers(*sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(n).astype(np.float32) for n in sizes]


def test_one_wrong_answer_among_many_is_refused_however_small_its_head():
    wanted = answers(*[1000] * 31, 2)
    got = [*wanted[:-1], -wanted[-1]]

    with pytest.raises(WrongAnswerError, match="no speed is given for wrong answers: the arm"):
        hold("the arm", got, "the plain path", wanted, "bf16")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_no_numbers_are_refused(value):
    wanted = answers(3, 4)
    got = [wanted[0], np.full(4, value, np.float32)]

    with np.errstate(invalid="ignore"), pytest.raises(WrongAnswerError):
        hold("the arm", got, "the plain path", wanted, "bf16")


def test_answers_of_other_shapes_or_numbers_are_infinitely_far():
    assert distance(answers(3, 4), answers(4, 3)) == np.inf
    assert distance(answers(3), answers(3, 3)) == np.inf


def test_rounding_passes_and_its_distance_is_told():
    wanted = answers(10, 5)
    got = [a * np.float32(1.001) for a in wanted]

    assert hold("the arm", got, "the plain path", wanted, "bf16") == pytest.approx(1e-3, rel=0.01)
    with pytest.raises(WrongAnswerError):
        hold("the arm", got, "the plain path", wanted, "fp32")
