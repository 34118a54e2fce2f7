"""Two runs beside each other: ratios, and how far chance may have moved them. Pure.

Whole seconds are drawn anew from each run, a percentile is taken of each draw, and the ratio's
interval is that of the ratios of draws. Where it holds 1, no difference was shown.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from loadtest.hits import Hits
from loadtest.outcomes import FAILED, Outcome
from loadtest.report.summary import measured, span
from loadtest.statistics import Blocks, Values, interval, percentile

SCHEMA: Final = "rootstock-loadtest-comparison/1"
_DRAWS: Final = 1000
_SEEDS: Final = (1, 2)
_PERCENTILES: Final = (50.0, 90.0, 99.0)
# Settings that may differ between runs that are held against each other.
_FREE: Final = frozenset({"name", "about", "seed", "slo", "target"})


class _Figure(NamedTuple):
    name: str
    more_is_better: bool
    value: float
    draws: Values


def comparison(a: Hits, b: Hits) -> dict[str, Any]:
    """Rows of figures: of a, of b, their ratio b / a with its interval of 95 %, and a verdict."""
    rows = []
    for one, other in zip(_figures(a, _SEEDS[0]), _figures(b, _SEEDS[1]), strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = other.draws / one.draws
            ratio = float(np.float64(other.value) / np.float64(one.value))
        low, high = interval(ratios)
        rows.append(
            {
                "figure": one.name,
                "a": _known(one.value),
                "b": _known(other.value),
                "ratio": _known(ratio),
                "low": _known(low),
                "high": _known(high),
                "verdict": _verdict(low, high, more_is_better=one.more_is_better),
            }
        )
    return {"schema": SCHEMA, "rows": rows, "differences": differences(a, b)}


def differences(a: Hits, b: Hits) -> list[str]:
    """Settings and circumstances that differ, beside what is meant to."""
    found = []
    one, other = a.header["scenario"], b.header["scenario"]
    found += [
        f"{key}: {_short(value)} | {_short(other.get(key))}"
        for key, value in one.items()
        if key not in _FREE and value != other.get(key)
    ]
    for key in ("processor", "cpus", "system"):
        left, right = a.header["environment"].get(key), b.header["environment"].get(key)
        if left != right:
            found.append(f"{key}: {left} | {right}")
    if (left := len(a.header["tasks"])) != (right := len(b.header["tasks"])):
        found.append(f"tasks: {left} | {right}")
    return found


def _figures(hits: Hits, seed: int) -> Iterator[_Figure]:
    begin, end = span(hits)
    seen = measured(hits)
    outcome, at = seen["outcome"], seen["scheduled"]
    right = outcome == Outcome.OK
    latency = 1000.0 * (seen["done"] - at)
    slo_ms = float(hits.header["scenario"]["slo"]["latency_ms"])
    blocks = Blocks(at[right], latency[right])
    redrawn = blocks.replicates(_PERCENTILES, _DRAWS, seed).T
    for q, draws in zip(_PERCENTILES, redrawn, strict=True):
        value = percentile(latency[right], q)
        yield _Figure(f"p{q:g} ms", more_is_better=False, value=value, draws=draws)
    seconds = max(end - begin, 1e-9)
    good = (right & (latency <= slo_ms)).astype(np.float64)
    failed = np.isin(outcome, list(FAILED)).astype(np.float64)
    for name, values, more in (("goodput /s", good, True), ("failed /s", failed, False)):
        sums = Blocks(at, values).sums(_DRAWS, seed)
        yield _Figure(name, more, float(values.sum()) / seconds, sums / seconds)


def _verdict(low: float, high: float, *, more_is_better: bool) -> str:
    if not np.isfinite(low) or not np.isfinite(high):
        return "not known"
    if low <= 1.0 <= high:
        return "no difference shown"
    return "better" if (low > 1.0) == more_is_better else "worse"


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def worse(compared: dict[str, Any], by: float) -> list[str]:
    """Figures of which it was shown that they are worse by at least this share."""
    found = []
    for row in compared["rows"]:
        if row["verdict"] != "worse":
            continue
        rising = row["ratio"] > 1.0
        near = row["low"] if rising else row["high"]  # the end of the interval next to 1
        if (near >= 1.0 + by) if rising else (near <= 1.0 - by):
            found.append(row["figure"])
    return found
