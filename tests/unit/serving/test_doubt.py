"""When an answer is another than the plain path's: not for rounding, and not for near-ties."""

import numpy as np
import pytest

from serving.doubt import compare, usual

PLAIN = np.array([4.0, 1.0, -2.0], np.float32)


def test_what_rounding_leaves_is_no_disagreement():
    verdict = compare(PLAIN * np.float32(1.01), PLAIN, 1.0, 5e-2)

    assert verdict.faults == ()
    assert verdict.part == pytest.approx(0.2, rel=1e-3)


def test_other_logits_are_one_and_so_is_what_is_no_number():
    assert "other logits" in compare(PLAIN * np.float32(1.1), PLAIN, 1.0, 5e-2).faults[0]
    for bad in (np.nan, np.inf):
        assert compare(np.array([4.0, bad, 0.0], np.float32), PLAIN, 1.0, 5e-2).faults
    assert compare(PLAIN[:2], PLAIN, 1.0, 5e-2).faults


def test_labels_that_lie_closer_than_the_tolerance_may_change_places():
    tied = np.array([4.0, 3.99, -2.0], np.float32)

    assert compare(np.array([3.99, 4.0, -2.0], np.float32), tied, 1.0, 1e-2).faults == ()


def test_another_label_is_one_however_many_others_are_right():
    """Among a thousand labels the best can change, and all logits together hardly move."""
    plain = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    plain[7], plain[8] = 4.0, 5.0
    answered = plain.copy()
    answered[7], answered[8] = 5.0, 4.0

    (fault,) = compare(answered, plain, 30.0, 5e-2).faults

    assert "another label" in fault


def test_an_answer_close_to_zero_is_measured_by_the_usual_size():
    """Two labels whose logits cancel: the rounding is that of what was summed up."""
    plain = np.array([0.01, -0.01], np.float32)
    answered = np.array([-0.02, 0.02], np.float32)

    assert compare(answered, plain, usual([[3.0, 4.0], [-4.0, 3.0]]), 5e-2).faults == ()
    assert compare(answered, plain, 0.0, 5e-2).faults


def test_nothing_is_held_to_what_the_plain_path_cannot_say():
    assert compare(PLAIN, np.full(3, np.nan, np.float32), 1.0, 1e-3).faults == ()
