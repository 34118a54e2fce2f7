"""What answers on one split amount to: intervals, calibration, confusion, worst mistakes. Pure.

Knows no picture, no file and no network.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest

BINS = 15  # of confidence, as in most published tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One split, and how sure an adapter was of each class for each of its images."""

    split: str  # "train", "val" or "test"
    images: NDArray[np.uint8]  # [N, 3, H, W]
    labels: NDArray[np.int64]  # [N]
    probabilities: NDArray[np.float64]  # [N, classes]; rows sum to 1

    @property
    def said(self) -> NDArray[np.int64]:
        """The most probable class of each image: [N]."""
        return np.asarray(self.probabilities.argmax(1), dtype=np.int64)

    @property
    def correct(self) -> int:
        """How many were right."""
        return int((self.said == self.labels).sum())


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image that was given another class than its own."""

    at: int  # its place in the split
    label: int
    said: int
    probability: float  # of what was said


def answered(
    split: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    logits: NDArray[np.float32],
) -> Answers:
    """Logits [N, classes] as probabilities."""
    return Answers(
        split=split,
        images=images,
        labels=labels,
        probabilities=softmax(logits.astype(np.float64), axis=1),
    )


def interval(correct: int, images: int) -> tuple[float, float]:
    """Wilson's interval: where the true accuracy lies with 95 % confidence, 0 … 1.

    It speaks of other images of the same kind, not of other seeds (Wilson, 1927).
    """
    found = binomtest(correct, images).proportion_ci(confidence_level=0.95, method="wilson")
    return float(found.low), float(found.high)


def calibration_error(answers: Answers) -> float:
    """Expected calibration error, 0 … 1: how far confidence and accuracy lie apart.

    Images go into 15 bins of equal width by the probability of what was said; the gaps of the
    bins are weighted by their images (Guo et al., 2017, equation 3).
    """
    confidence = answers.probabilities.max(1)
    right = answers.said == answers.labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(right))


def confusion(answers: Answers) -> NDArray[np.int64]:
    """[classes, classes]: how many images of a class (row) were given which class (column)."""
    classes = answers.probabilities.shape[1]
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (answers.labels, answers.said), 1)
    return table


def worst(answers: Answers, most: int) -> tuple[Mistake, ...]:
    """The mistakes that were made with the most confidence, the worst first."""
    said = answers.said
    sure = answers.probabilities.max(1)
    wrong = np.flatnonzero(said != answers.labels)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    return tuple(
        Mistake(int(at), int(answers.labels[at]), int(said[at]), float(sure[at])) for at in order
    )


def hardest(table: NDArray[np.int64], most: int) -> tuple[int, ...]:
    """The classes that take part in the most mistakes, as row or column; in their own order."""
    wrong = table - np.diag(np.diag(table))
    involved = wrong.sum(0) + wrong.sum(1)
    return tuple(sorted(int(at) for at in np.argsort(-involved, kind="stable")[:most]))
