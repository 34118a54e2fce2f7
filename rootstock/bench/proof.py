"""Answers before speeds: an arm that answers wrongly gets no row. Knows arrays, no engine."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from adapters_store.effect import TOLERANCE, relative
from adapters_store.errors import RootstockError

Logits = Sequence[NDArray[np.float32]]  # of each sample; heads differ in size

BOUND: Final = {"fp32": 1e-4, "bf16": TOLERANCE[torch.bfloat16]}  # relative L2


class WrongAnswerError(RootstockError):
    """An arm does not compute what it is said to compute, so its speed means nothing."""

    def __init__(self, arm: str, what: str, distance: float, bound: float) -> None:
        super().__init__(arm, what, distance, bound)
        self.arm, self.what, self.distance, self.bound = arm, what, distance, bound

    def __str__(self) -> str:
        return (
            f"no speed is given for wrong answers: {self.arm} differs from {self.what} by "
            f"{self.distance:.3g} relative, more than {self.bound:g}"
        )


def distance(got: Logits, wanted: Logits) -> float:
    """Root mean square over samples of ‖got − wanted‖ / ‖wanted‖; infinite where shapes differ.

    Each sample counts alike, however large its head is: one wrong answer of 32 gives 0.2.
    """
    if len(got) != len(wanted) or any(a.shape != b.shape for a, b in zip(got, wanted, strict=True)):
        return float("inf")
    gaps = [relative(a, b) for a, b in zip(got, wanted, strict=True)]
    return float(np.sqrt(np.mean(np.square(gaps))))


def hold(arm: str, got: Logits, what: str, wanted: Logits, dtype: str) -> float:
    """The distance between two sets of answers, known to be small enough for the dtype.

    Raises:
        WrongAnswerError
    """
    found = distance(got, wanted)
    if not found <= BOUND[dtype]:  # NaN is no pass
        raise WrongAnswerError(arm, what, found, BOUND[dtype])
    return found
