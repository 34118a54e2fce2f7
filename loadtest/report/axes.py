"""Scales of a plot: where a value lies, and which values are written at an axis. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_STEPS: Final = (1.0, 2.0, 5.0, 10.0)
_NINES: Final = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
_NEAR: Final = 1.0 + 1e-9  # 2 × 0.1 is no more than 0.2
_LOG_TICKS_MAX: Final = 7
_LOG_STEPS: Final = ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to [0, 1]."""

    place: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]  # value, what is written


def linear(low: float, high: float, wanted: int) -> Scale:
    """Round values at equal distances."""
    if high <= low:
        high = low + 1.0
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in _STEPS if s * power >= raw * 0.999)
    high = math.ceil(high / step - 1e-9) * step
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    values = [(first + i) * step for i in range(count)]
    return Scale(lambda v: (v - low) / (high - low), tuple((v, number(v)) for v in values))


def logarithmic(low: float, high: float) -> Scale:
    """Ones, twos and fives of every power of ten; ones alone where those are too many.

    It begins and ends at one of these.
    """
    low = max(low, 1e-6)
    high = max(high, low * 2.0)
    low = max(value for value in _of_power(low) if value <= low * _NEAR)
    high = min(value for value in _of_power(high) if value * _NEAR >= high)
    bottom, top = math.log10(low) - 0.02, math.log10(high) + 0.02
    values: list[float] = []
    for steps in _LOG_STEPS:
        values = [
            step * 10.0**power
            for power in range(math.floor(bottom), math.ceil(top) + 1)
            for step in steps
            if bottom <= math.log10(step * 10.0**power) <= top
        ]
        if len(values) <= _LOG_TICKS_MAX:
            break
    return Scale(
        lambda v: (math.log10(max(v, low)) - bottom) / (top - bottom),
        tuple((v, number(v)) for v in values),
    )


def _of_power(value: float) -> list[float]:
    """One, two, five and ten of the value's power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return [step * power for step in _STEPS]


def nines(count: int) -> Scale:
    """Shares below, stretched towards one: 90 %, 99 % and 99.9 % lie at equal distances."""
    end = max(math.log10(max(count, 10)), 1.0)

    def place(share: float) -> float:
        return min(-math.log10(max(1.0 - share, 10.0**-end)), end) / end

    ticks = [v for v in _NINES if v == 0.0 or -math.log10(1.0 - v) <= end]
    return Scale(place, tuple((v, f"{100 * v:g} %") for v in ticks))


def number(value: float) -> str:
    """Short, and without an exponent where people would not write one."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    if abs(value) >= 10_000:
        return f"{value / 1e3:g} k"
    return f"{value:.6g}"
