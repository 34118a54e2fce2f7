"""Numbers of samples: percentiles, fairness, and how far chance may have moved them. Pure."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9, 99.99)
_CHANCE_SEED: Final = 20_260_101  # the same file gives the same interval


def percentile(values: Values, q: float) -> float:
    """The smallest value that is no less than q % of all: one that occurred. NaN of nothing."""
    if not len(values):
        return float("nan")
    return float(np.quantile(values, q / 100.0, method="inverted_cdf"))


def summary(values: Values) -> dict[str, float]:
    """Count, percentiles, mean, standard deviation and largest."""
    found: dict[str, float] = {"count": len(values)}
    for q, value in zip(PERCENTILES, percentiles(values, PERCENTILES), strict=True):
        found[f"p{q:g}"] = value
    if len(values):
        found |= {"mean": float(values.mean()), "std": float(values.std())}
        found["max"] = float(values.max())
    return found


def percentiles(values: Values, wanted: Sequence[float]) -> list[float]:
    """Several at once."""
    if not len(values):
        return [float("nan")] * len(wanted)
    found = np.quantile(values, np.array(wanted) / 100.0, method="inverted_cdf")
    return [float(value) for value in found]


def jain(shares: Values) -> float:
    """Jain's index (Σx)² / (n Σx²): 1 where all get the same, 1/n where one gets all."""
    total = float((shares**2).sum())
    if not len(shares) or total == 0.0:
        return float("nan")
    return float(shares.sum() ** 2 / (len(shares) * total))


def trend(at: Values, values: Values) -> float:
    """The slope of a straight line through the points, by least squares; 0 of fewer than three."""
    if len(at) < 3 or float(np.ptp(at)) == 0.0:
        return 0.0
    return float(np.polyfit(at - at.mean(), values, 1)[0])


class Blocks:
    """Samples in blocks of time, to be drawn anew: neighbours share their luck.

    Drawing whole blocks with replacement (Künsch 1989, without overlap) keeps what binds them.
    """

    def __init__(self, at: Values, values: Values, block_s: float = 1.0) -> None:
        block = np.floor((at - (at.min() if len(at) else 0.0)) / block_s).astype(np.int64)
        self.blocks = int(block.max()) + 1 if len(at) else 0
        order = np.argsort(values, kind="stable")
        self._values, self._block = values[order], block[order]

    def replicates(self, wanted: Sequence[float], draws: int, seed: int = 0) -> Values:
        """Percentiles [draws, wanted] of redrawn samples; NaN where there is nothing."""
        rng = np.random.default_rng((_CHANCE_SEED, seed))
        shares = np.array(wanted) / 100.0
        found = np.full((draws, len(shares)), np.nan)
        for row in found if self.blocks else ():
            times = np.bincount(rng.integers(self.blocks, size=self.blocks), minlength=self.blocks)
            weight = np.cumsum(times[self._block])
            if weight[-1]:
                place = np.searchsorted(weight, shares * weight[-1], side="left")
                row[:] = self._values[np.minimum(place, len(self._values) - 1)]
        return found

    def sums(self, draws: int, seed: int = 0) -> Values:
        """The sum of values of as many redrawn samples."""
        rng = np.random.default_rng((_CHANCE_SEED, seed))
        of = np.bincount(self._block, weights=self._values, minlength=self.blocks)
        return np.array(
            [of[rng.integers(self.blocks, size=self.blocks)].sum() for _ in range(draws)]
        )


def interval(replicates: Values, level: float = 0.95) -> tuple[float, float]:
    """The middle of them, by percentiles."""
    some = replicates[np.isfinite(replicates)]
    if not len(some):
        return float("nan"), float("nan")
    low, high = np.quantile(some, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
