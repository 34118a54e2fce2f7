"""Numbers about answers, against values worked out by hand."""

import numpy as np
import pytest

from training.report.measures import (
    Answers,
    answered,
    calibration_error,
    confusion,
    hardest,
    interval,
    worst,
)


@pytest.fixture
def answers() -> Answers:
    """Four images of three classes; the second and the fourth are mistaken."""
    shares = np.array([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6], [0.3, 0.6, 0.1]])
    return Answers(
        split="test",
        images=np.zeros((4, 3, 2, 2), dtype=np.uint8),
        labels=np.array([0, 1, 2, 0]),
        probabilities=shares,
    )


def test_wilsons_interval_is_the_published_one():
    """8 of 10 gives 0.490 to 0.943; all of them does not give certainty."""
    assert interval(8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    low, high = interval(10, 10)
    assert (low, high) == (pytest.approx(0.7225, abs=1e-4), 1.0)


def test_calibration_error_is_the_gap_of_each_bin_weighted_by_its_images(answers):
    """Two images share the bin of 0.6; the others are alone."""
    assert calibration_error(answers) == pytest.approx((0.1 + 0.8 + abs(1 - 1.2)) / 4)


def test_a_sure_and_right_adapter_has_no_calibration_error():
    labels = np.array([0, 1])
    logits = np.array([[99, 0], [0, 99]], dtype=np.float32)

    found = answered("val", np.zeros((2, 3, 1, 1), dtype=np.uint8), labels, logits)

    assert calibration_error(found) == pytest.approx(0)
    assert worst(found, 5) == ()


def test_confusion_has_a_row_for_what_was_shown(answers):
    assert confusion(answers).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_the_surest_mistake_comes_first(answers):
    assert [(m.at, m.label, m.said) for m in worst(answers, 5)] == [(1, 1, 0), (3, 0, 1)]
    assert len(worst(answers, 1)) == 1


def test_the_hardest_classes_are_those_in_most_mistakes(answers):
    assert hardest(confusion(answers), 2) == (0, 1)
