"""How fast a line moves, as seen from its end. Pure; knows no clock.

What is counted is the time between two turns while somebody waited for the second: a line that
nobody stands in says nothing of how fast it could be. Old turns count less and less, and what was
seen too long ago counts nothing: a line that was slow once must not stay empty for it.
"""

import math
from typing import Final

_KEPT: Final = 1 - 1 / 32  # of what was known, at each turn
_MEMORY_S: Final = 5.0
_UP, _DOWN, _LEAST = 1 / 4, 1 / 16, 0.1  # four of five take less
_RETRY_MOST_S: Final = 30


class Pace:
    """Of one line."""

    def __init__(self) -> None:
        self._turns = self._seconds = 0.0  # those that count, and the time between them
        self._last: float | None = None  # when a turn was given that left somebody waiting
        self._seen = -math.inf

    def turn(self, now: float, *, waiting: bool) -> None:
        """A turn was given; `waiting`: somebody waits for the next."""
        if self._last is not None:
            self._turns = self._turns * _KEPT + 1
            self._seconds = self._seconds * _KEPT + now - self._last
            self._seen = now
        self._last = now if waiting else None

    def rest(self) -> None:
        """Nobody waits any more."""
        self._last = None

    def each_s(self, now: float) -> float:
        """Seconds from one turn to the next; 0 when that is not known."""
        known = self._turns > 0 and now - self._seen < _MEMORY_S
        return self._seconds / self._turns if known else 0.0


class Usual:
    """About how much something takes, of time or anything: most of the last took less."""

    def __init__(self) -> None:
        self._value, self._seen = 0.0, -math.inf

    def note(self, value: float, now: float) -> None:
        """It took so much once more; far more than before counts as more than before."""
        change = min(value, 2 * self._value + _LEAST) - self._value
        self._value += change * (_UP if change > 0 else _DOWN)
        self._seen = now

    def value(self, now: float) -> float:
        """0 when that is not known."""
        return self._value if now - self._seen < _MEMORY_S else 0.0


def retry_after_s(drain_s: float, dice: float) -> int:
    """Whole seconds after which it is worth asking again.

    Args:
        drain_s: until all that waits now would be done.
        dice: in [0, 1); spreads those who were refused together over twice that time.
    """
    return min(_RETRY_MOST_S, 1 + int(dice * (1 + 2 * drain_s)))
