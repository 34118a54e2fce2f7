"""Whether an answer is the one that the plain path gives for the same picture. Pure numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of comparing one answer."""

    part: float  # how far it is from the plain path's, as a part of what is tolerated
    faults: tuple[str, ...] = ()  # none: they agree


def usual(recorded: Sequence[Sequence[float]]) -> float:
    """The size of a release's answers: the root mean square of ‖logits‖, of the golden images."""
    rows = np.asarray(recorded, dtype=np.float64)
    return float(np.sqrt(np.mean(np.sum(rows * rows, axis=1))))


def compare(
    answered: NDArray[np.float32], plain: NDArray[np.float32], size: float, tolerance: float
) -> Verdict:
    """Hold one answer to the plain path's.

    Rounding grows with what is summed up, not with the sum. So an answer that happens to be close
    to zero is measured by the size that this release's answers usually have. Labels that lie closer
    to each other than the tolerance may change places: their order is rounding.

    Args:
        answered: logits as they were answered, [labels].
        plain: logits of the plain path, [labels].
        size: see `usual`.
        tolerance: of ‖answered − plain‖, as a part of ‖plain‖ or of the usual size.
    """
    if answered.shape != plain.shape:
        fault = f"{answered.shape[0]} logits were answered, the plain path gives {plain.shape[0]}"
        return Verdict(float("inf"), (fault,))
    if not np.isfinite(plain).all():
        return Verdict(0.0)  # nothing can be held to this
    if not np.isfinite(answered).all():
        return Verdict(float("inf"), ("NaN or infinite logits were answered",))
    gap = np.asarray(answered, np.float64) - np.asarray(plain, np.float64)
    norm = max(float(np.linalg.norm(plain)), size, 1e-12)
    distance = float(np.linalg.norm(gap)) / norm
    faults = []
    if distance > tolerance:
        faults.append(
            f"other logits were answered than the plain path gives: {distance:.3g} relative, "
            f"more than {tolerance:g}"
        )
    # Of many labels a few can be far off before all of them together are.
    lost = float(plain.max() - plain[answered.argmax()])
    peak = max(float(np.abs(plain).max()), size / len(plain) ** 0.5, 1e-12)
    if lost > tolerance * peak:
        faults.append(f"another label was answered, {lost / peak:.3g} relative below the best")
    return Verdict(max(distance, lost / peak) / tolerance, tuple(faults))
