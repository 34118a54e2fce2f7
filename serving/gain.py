"""What a group of its own saves, worked out from forwards that were measured. Pure numbers."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

_MARGIN: Final = 0.01  # of a batch's time: what a split must save; measuring tells no less from 0

Curve = tuple[tuple[int, float], ...]  # (samples, seconds of a forward), ascending


@dataclass(frozen=True, slots=True)
class Gain:
    """Measured seconds of a forward by size; from them, what a group of its own saves."""

    mixed: Curve = ()  # one task in the whole batch: the cheapest that the mixed lane gets
    merged: Curve = ()  # one folded network

    def saved_s(self, samples: int, batch: int) -> float:
        """Seconds that a batch is shorter when so many of its samples run merged; 0 if none.

        Splitting costs: what is left is a smaller batch, and small batches are dear. Where it seems
        to save by itself a measurement was disturbed, so merging must save that much alone, too.
        """
        if not self.mixed or not self.merged:
            return 0.0
        whole = _at(self.mixed, batch)
        own = self._own_s(samples)
        saved = min(whole - _at(self.mixed, batch - samples), _at(self.mixed, samples)) - own
        return saved if saved >= _MARGIN * whole else 0.0

    def _own_s(self, samples: int) -> float:
        """Seconds of a merged group; beyond the largest size, the same part of a mixed one."""
        size, seconds = self.merged[-1]
        if samples <= size:
            return _at(self.merged, samples)
        return _at(self.mixed, samples) * seconds / _at(self.mixed, size)

    def least(self, batch: int) -> int | None:
        """Break-even: the least samples of one task from which its own group pays, if any."""
        return next((n for n in range(1, batch + 1) if self.saved_s(n, batch) > 0), None)


def _at(curve: Curve, samples: int) -> float:
    """Seconds for so many samples: on the line through the measured sizes next to it.

    Beyond the largest it goes on as it went last, but no steeper than from nothing to there: what
    is noise between two small sizes would be a large number far out.
    """
    if samples <= 0:
        return 0.0
    after = min(bisect_left([size for size, _ in curve], samples), len(curve) - 1)
    size, seconds = curve[after]
    before, cheap = curve[after - 1] if after else (0, 0.0)
    slope = (seconds - cheap) / (size - before)
    if samples > size:
        slope = min(slope, seconds / size)
    return seconds + slope * (samples - size)
