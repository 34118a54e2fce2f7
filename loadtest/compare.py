"""Two runs beside each other: ratios, and how far chance may have moved them. Pure.

Blocks of seconds are drawn anew from each run, a percentile is taken of each draw, and the ratio's
interval is that of the ratios of draws. Where it holds 1, no difference was shown.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from loadtest.hits import Hits
from loadtest.outcomes import FAILED, Outcome
from loadtest.report.summary import measured, report, span
from loadtest.statistics import Blocks, Values, interval, percentile

SCHEMA: Final = "rootstock-loadtest-comparison/1"
_DRAWS: Final = 1000
_SEEDS: Final = (1, 2)
_PERCENTILES: Final = (50.0, 90.0, 99.0)
# Settings that may differ between runs that are held against each other.
_FREE: Final = frozenset({"name", "about", "seed", "slo", "target"})


class _Figure(NamedTuple):
    name: str
    value: float
    draws: Values
    blocks: float
    more_is_better: bool = False


def comparison(a: Hits, b: Hits) -> dict[str, Any]:
    """Rows of figures: of a, of b, their ratio b / a with its interval of 95 %, and a verdict.

    A ratio, or an end of its interval, is null where it is not known, or infinite.
    """
    rows = []
    for one, other in zip(_figures(a, _SEEDS[0]), _figures(b, _SEEDS[1]), strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = other.draws / one.draws
            ratio = float(np.float64(other.value) / np.float64(one.value))
        ratios[(one.draws == 0.0) & (other.draws == 0.0)] = 1.0
        low, high = interval(ratios, min(one.blocks, other.blocks))
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
    invalid = {"a": report(a)["invalid"], "b": report(b)["invalid"]}
    if all(row["verdict"] == "not known" for row in rows):
        for name, hits in (("a", a), ("b", b)):
            if len(measured(hits)):
                invalid[name].append("too short: nothing can be told from chance")
    return {
        "schema": SCHEMA,
        "rows": rows,
        "differences": differences(a, b),
        "invalid": invalid,
    }


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
        yield _Figure(f"p{q:g} ms", value, draws, blocks.count)
    seconds = max(end - begin, 1e-9)
    good = (right & (latency <= slo_ms)).astype(np.float64)
    all_of = Blocks(at, good)
    sums = all_of.sums(_DRAWS, seed) / seconds
    value = float(good.sum()) / seconds
    yield _Figure("goodput /s", value, sums, all_of.count, more_is_better=True)
    wanted = outcome != Outcome.EXPECTED
    some_of = Blocks(at[wanted], good[wanted])
    share = float(good[wanted].mean()) if wanted.any() else float("nan")
    means = some_of.means(_DRAWS, seed)
    yield _Figure("in time, of all", share, means, some_of.count, more_is_better=True)
    failed = np.isin(outcome, list(FAILED)).astype(np.float64)
    # One failure more than there were, in a second of its own. None seen is not none possible: no
    # draw of a run without failures would have any, and one failure beside it would be a proof.
    later = at.max(initial=begin) + 1.0
    failures = Blocks(np.append(at, later), np.append(failed, 1.0))
    sums = failures.sums(_DRAWS, seed) / seconds
    yield _Figure("failed /s", float(failed.sum()) / seconds, sums, failures.count)


def _verdict(low: float, high: float, *, more_is_better: bool) -> str:
    if np.isnan(low) or np.isnan(high):
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
        rising = row["ratio"] is None or row["ratio"] > 1.0  # None: of nothing at all
        near = row["low"] if rising else row["high"]  # the end of the interval next to 1
        near = float("inf") if near is None else near
        if (near >= 1.0 + by) if rising else (near <= 1.0 - by):
            found.append(row["figure"])
    return found
