"""Numbers of samples: percentiles, fairness, and how far chance may have moved them. Pure."""

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9, 99.99)
_CHANCE_SEED: Final = 20_260_101  # the same file gives the same interval
_BLOCKS_MIN: Final = 5  # of fewer blocks nothing is said about chance
_ALIKE_MIN_S: Final = 1.3  # less is chance itself


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
    """Samples in seconds, which are drawn anew in blocks: neighbours share their luck.

    The circular block bootstrap (Politis & Romano 1992): with replacement, as many seconds as there
    were, in blocks as long as what binds neighbours lasts (`together_s`).
    """

    def __init__(self, at: Values, values: Values) -> None:
        second = np.floor(at - (at.min() if len(at) else 0.0)).astype(np.int64)
        self.seconds = int(second.max()) + 1 if len(at) else 0
        self.length = together_s(second, values, self.seconds)
        order = np.argsort(values, kind="stable")
        self._values, self._second = values[order], second[order]

    @property
    def count(self) -> float:
        """How many blocks there are: the size of the sample, as far as chance goes."""
        return self.seconds / self.length

    def replicates(self, wanted: Sequence[float], draws: int, seed: int = 0) -> Values:
        """Percentiles [draws, wanted] of redrawn samples; NaN where there is nothing."""
        shares = np.array(wanted) / 100.0
        found = np.full((draws, len(shares)), np.nan)
        for row, times in zip(found, self._redrawn(draws, seed), strict=False):
            weight = np.cumsum(times[self._second])
            if weight[-1]:
                place = np.searchsorted(weight, shares * weight[-1], side="left")
                row[:] = self._values[np.minimum(place, len(self._values) - 1)]
        return found

    def sums(self, draws: int, seed: int = 0) -> Values:
        """The sum of values of as many redrawn samples."""
        of = np.bincount(self._second, weights=self._values, minlength=self.seconds)
        return np.array([of @ times for times in self._redrawn(draws, seed)])

    def means(self, draws: int, seed: int = 0) -> Values:
        """The mean of values of as many redrawn samples; NaN where there is nothing."""
        count = np.bincount(self._second, minlength=self.seconds)
        counts = np.array([count @ times for times in self._redrawn(draws, seed)])
        sums = self.sums(draws, seed)
        found = np.full(len(sums), np.nan)
        np.divide(sums, counts, out=found, where=counts > 0)
        return found

    def _redrawn(self, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """How often each second comes in a draw; no draws of nothing."""
        rng = np.random.default_rng((_CHANCE_SEED, seed))
        within = np.arange(self.length)
        for _ in range(draws if self.seconds else 0):
            begins = rng.integers(self.seconds, size=-(-self.seconds // self.length))
            chosen = (begins[:, None] + within).ravel()[: self.seconds] % self.seconds
            yield np.bincount(chosen, minlength=self.seconds)


def together_s(second: NDArray[np.int64], values: Values, seconds: int) -> int:
    """How many seconds to keep together: twice the time over which they are alike, or one.

    That time is the integrated autocorrelation of the seconds' mean ranks, summed for as long as it
    is positive. At least five blocks are left.
    """
    if seconds < 2 * _BLOCKS_MIN:
        return 1
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    held = np.bincount(second, minlength=seconds)
    sums = np.bincount(second, weights=rank - rank.mean(), minlength=seconds)
    of = sums / np.sqrt(np.maximum(held, 1))
    of -= of.mean()
    power = float(of @ of)
    alike_s = 1.0
    for lag in range(1, seconds // 4 + 1):
        again = float(of[lag:] @ of[:-lag]) / power if power else 0.0
        if again <= 0.0:
            break
        alike_s += 2.0 * again
    if alike_s < _ALIKE_MIN_S:
        return 1
    return max(min(round(2.0 * alike_s), seconds // _BLOCKS_MIN), 1)


def interval(replicates: Values, blocks: float, level: float = 0.95) -> tuple[float, float]:
    """The middle of them, by percentiles that are wider where blocks are few; NaN of hardly any.

    Expanded percentiles (Hesterberg 2015): as far out as Student's t says for so many blocks.
    """
    some = replicates[~np.isnan(replicates)]
    if not len(some) or blocks < _BLOCKS_MIN:
        return float("nan"), float("nan")
    normal = NormalDist()
    wide = _student(normal.inv_cdf((1 + level) / 2), blocks - 1) * math.sqrt(blocks / (blocks - 1))
    outside = normal.cdf(-wide)
    low, high = np.quantile(some, [outside, 1 - outside], method="inverted_cdf")
    return float(low), float(high)


def _student(z: float, freedom: float) -> float:
    """Student's t where the normal law has z (Fisher & Cornish 1960, three terms)."""
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
