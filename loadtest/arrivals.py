"""When requests are wanted: instants from a law, a profile and a seed. Pure.

A point process of rate one is stretched by the profile: where Λ(t) arrivals are expected until t,
the points u of the unit process become the instants Λ⁻¹(u). Equal distances, Poisson and gamma
keep their character under any profile.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadtest.scenario import Burst, Flash, Open, Ramp, Spacing

Times = NDArray[np.float64]
Knots = Sequence[tuple[float, float]]  # (second, rate), straight lines between them

_CHUNK: Final = 4096


def instants(arrivals: Open, duration_s: float, seed: np.random.SeedSequence) -> Times:
    """Ascending seconds from the start, all before `duration_s`."""
    unit = unit_points(arrivals.spacing, arrivals.cv, expected(arrivals, duration_s), seed)
    return stretched(unit, profile(arrivals, duration_s))


def expected(arrivals: Open, duration_s: float) -> float:
    """How many there will be on the average."""
    return float(_expected(profile(arrivals, duration_s))[-1])


def profile(arrivals: Open, duration_s: float) -> Knots:
    """The rate over time, exactly."""
    rate = arrivals.rate
    match arrivals:
        case Ramp():
            return [(0.0, rate), (duration_s, arrivals.to_rate)]
        case Burst():
            knots = []
            begin = 0.0
            while begin < duration_s:
                rise = begin + arrivals.every_s - arrivals.for_s
                end = begin + arrivals.every_s
                peak = arrivals.peak_rate
                knots += [(begin, rate), (rise, rate), (rise, peak), (end, peak)]
                begin = end
            return _cut(knots, duration_s)
        case Flash():
            top = arrivals.at_s + arrivals.rise_s
            down = top + arrivals.hold_s
            knots = [
                (0.0, rate),
                (arrivals.at_s, rate),
                (top, arrivals.peak_rate),
                (down, arrivals.peak_rate),
                (down + arrivals.fall_s, rate),
                (max(duration_s, down + arrivals.fall_s), rate),
            ]
            return _cut(knots, duration_s)
        case _:
            return [(0.0, rate), (duration_s, rate)]


def unit_points(spacing: Spacing, cv: float, until: float, seed: np.random.SeedSequence) -> Times:
    """Points of a process of rate one, below `until`; distances have mean 1 and the given cv."""
    if spacing == "constant":
        return np.arange(np.ceil(until), dtype=np.float64)
    rng = np.random.default_rng(seed)
    shape = 1.0 if spacing == "poisson" else 1.0 / cv**2
    found: list[Times] = []
    last = 0.0
    while last < until:
        distances = rng.gamma(shape, 1.0 / shape, _CHUNK)
        found.append(last + np.cumsum(distances))
        last = float(found[-1][-1])
    points = np.concatenate(found) if found else np.empty(0)
    return points[points < until]


def stretched(unit: Times, knots: Knots) -> Times:
    """Λ⁻¹ of the points, by the quadratic formula between two knots."""
    at = np.array([t for t, _ in knots])
    rate = np.array([r for _, r in knots])
    expected = _expected(knots)
    piece = np.clip(np.searchsorted(expected, unit, side="right") - 1, 0, len(at) - 2)
    width = at[piece + 1] - at[piece]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(width > 0, (rate[piece + 1] - rate[piece]) / width, 0.0)
    rest = unit - expected[piece]
    root = np.sqrt(np.maximum(rate[piece] ** 2 + 2.0 * slope * rest, 0.0))
    times: Times = at[piece] + 2.0 * rest / (rate[piece] + root)
    return times


def _expected(knots: Knots) -> Times:
    """Λ at the knots."""
    at = np.array([t for t, _ in knots])
    rate = np.array([r for _, r in knots])
    areas = np.diff(at) * (rate[1:] + rate[:-1]) / 2.0
    return np.concatenate([[0.0], np.cumsum(areas)])


def _cut(knots: Knots, end: float) -> Knots:
    """The same until `end`."""
    kept = [(t, r) for t, r in knots if t <= end]
    after = next(((t, r) for t, r in knots if t > end), None)
    if after is not None and kept[-1][0] < end:
        (t0, r0), (t1, r1) = kept[-1], after
        kept.append((end, r0 + (r1 - r0) * (end - t0) / (t1 - t0)))
    return kept
