"""Arms that take turns, and what their times come to. Knows clocks and numbers, no engine.

What else runs on a machine changes from second to second, so times are compared only within a
round, in which every arm has one turn; the median of those ratios is what is reported.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np

T = TypeVar("T")

_REDRAWN: Final = 400


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle half of some values."""

    low: float  # first quartile
    median: float
    high: float  # third quartile

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Quartiles, interpolated between neighbours."""
        return cls(*(float(q) for q in np.percentile(values, (25, 50, 75))))

    @property
    def quartiles(self) -> list[float]:
        """First and third."""
        return [self.low, self.high]


@dataclass(frozen=True, slots=True)
class Turn(Generic[T]):
    """One run of one arm."""

    seconds: float
    result: T


def order(names: Sequence[str], turn: int) -> list[str]:
    """Who comes when in a round: everybody is first equally often, and follows different ones."""
    at = turn % len(names)
    rotated = [*names[at:], *names[:at]]
    return rotated if turn // len(names) % 2 == 0 else rotated[::-1]


def take_turns(
    arms: Mapping[str, Callable[[], T]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[Turn[T]]]:
    """Every arm once a round; its turns in order of the rounds."""
    turns: dict[str, list[Turn[T]]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in order(list(arms), number):
            began = clock()
            result = arms[name]()
            turns[name].append(Turn(clock() - began, result))
    return turns


def quotients(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of neighbours: one a round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def times(turns: Sequence[Turn[T]]) -> list[float]:
    """Seconds of each turn."""
    return [turn.seconds for turn in turns]


def speed(base: Sequence[Turn[T]], arm: Sequence[Turn[T]]) -> Spread:
    """How fast an arm is against the base: base's time over its own, round by round."""
    return Spread.of(quotients(times(base), times(arm)))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share (0 to 100) of them does not exceed, interpolated."""
    return float(np.percentile(values, share))


def tail(runs: Sequence[Sequence[float]], share: float) -> float:
    """The percentile of all values of all runs: of one short run it is little but the largest."""
    return percentile([value for run in runs for value in run], share)


def tails_apart(
    above: Sequence[Sequence[float]], below: Sequence[Sequence[float]], share: float
) -> Spread:
    """The ratio of two tails, each over all runs, and how far it hangs on which runs there were.

    Its quartiles are those of the same ratio over runs drawn with replacement, in pairs.
    """
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(above), size=(_REDRAWN, len(above))).tolist()
    found = [
        tail([above[i] for i in some], share) / tail([below[i] for i in some], share)
        for some in drawn
    ]
    spread = Spread.of(found)
    return Spread(spread.low, tail(above, share) / tail(below, share), spread.high)
