"""Hits to one JSON value: the report, whose text and page are made of it. Pure.

Latency counts from the scheduled instant, of right answers; failures are counted beside it, and
all of them against goodput. Warm-up is left out.
"""

from typing import Any, Final

import numpy as np

from loadtest.hits import Hits
from loadtest.outcomes import ANSWERED, FAILED, SENT, Outcome, Wrong
from loadtest.report.series import series
from loadtest.report.tasks import by_task
from loadtest.report.validity import faults
from loadtest.statistics import Blocks, interval, summary, trend

SCHEMA: Final = "rootstock-loadtest-report/1"
_DRAWS: Final = 400


def report(hits: Hits) -> dict[str, Any]:
    """Of one run."""
    header = hits.header
    scenario = header["scenario"]
    slo_ms = float(scenario["slo"]["latency_ms"])
    begin, end = span(hits)
    seen = measured(hits)
    seconds = max(end - begin, 1e-9)
    outcome = seen["outcome"]
    right = outcome == Outcome.OK
    latency = 1000.0 * (seen["done"] - seen["scheduled"])
    service = 1000.0 * (seen["done"] - seen["sent"])
    lag = 1000.0 * (seen["sent"] - seen["scheduled"])
    lag = lag[np.isfinite(lag)]
    good = right & (latency <= slo_ms)
    # Refusals that were wanted are neither work nor failure.
    offered = int((outcome != Outcome.EXPECTED).sum())
    wrong = {w.name.lower(): int((seen["wrong"] == w).sum()) for w in Wrong if w}
    changes = [{"made": 200 <= c["status"] < 300, **c} for c in header["changes"]]
    figures = {
        "offered": len(seen) / seconds,
        "sent": float(np.isin(outcome, list(SENT)).sum()) / seconds,
        "answered": float(np.isin(outcome, list(ANSWERED)).sum()) / seconds,
        "ok": float(right.sum()) / seconds,
        "goodput": float(good.sum()) / seconds,
    }
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "name": scenario["name"],
        "began": header["began"],
        "interrupted": header["interrupted"],
        "mode": "closed" if scenario["arrivals"]["kind"] == "closed" else "open",
        "seconds": seconds,
        "warmup_s": begin,
        "hits": len(seen),
        "slo_ms": slo_ms,
        "rates": figures,
        "attainment": float(good.sum()) / offered if offered else None,
        "failed": int(np.isin(outcome, list(FAILED)).sum()),
        "failed_share": float(np.isin(outcome, list(FAILED)).mean()) if len(seen) else None,
        "outcomes": {o.name.lower(): n for o in Outcome if (n := int((outcome == o).sum()))},
        "statuses": _counts(seen["status"]),
        "wrong": {name: n for name, n in wrong.items() if n},
        "retry_after": int(np.isfinite(seen["retry_after"]).sum()),
        "latency_ms": summary(latency[right]),
        "service_ms": summary(service[right]),
        "lag_ms": summary(lag),
        "stages_ms": _stages(seen),
        "trend_ms_per_s": trend(seen["scheduled"][right], latency[right]),
        "tasks": by_task(seen, slo_ms),
        "series": series(seen, begin, end, slo_ms),
        "changes": changes,
        "changes_refused": sum(not change["made"] for change in changes),
        "clients": header["clients"],
        "server": header["server"],
        "learned": header["learned"],
        "images": {"count": len(header["images"]), "bytes_mean": header["image_bytes_mean"]},
        "scenario": scenario,
        "environment": header["environment"],
    }
    blocks = Blocks(seen["scheduled"][right], latency[right])
    for name, draws in zip(("p50", "p99"), blocks.replicates((50.0, 99.0), _DRAWS).T, strict=True):
        low, high = interval(draws, blocks.count)
        value["latency_ms"][f"{name}_interval"] = [low, high]
    # A closed loop has no plan, and a run that was broken off did not come to its end.
    whole = header["planned"] and not header["interrupted"]
    value["unaccounted"] = max(header["planned"] - len(hits), 0) if whole else 0
    value["invalid"] = faults(value)
    value["valid"] = not value["invalid"]
    plain: dict[str, Any] = _plain(value)
    return plain


def span(hits: Hits) -> tuple[float, float]:
    """First and last second that count."""
    scenario = hits.header["scenario"]
    begin, end = float(scenario["warmup_s"]), float(scenario["duration_s"])
    if hits.header["interrupted"] and len(hits):
        end = min(end, float(hits["scheduled"].max()))
        begin = begin if begin < end else 0.0
    return begin, end


def measured(hits: Hits) -> Hits:
    """Without warm-up."""
    begin, end = span(hits)
    at = hits["scheduled"]
    return hits.where((at >= begin) & (at <= end))


def _counts(statuses: np.ndarray[Any, Any]) -> dict[str, int]:
    found, counts = np.unique(statuses[statuses > 0], return_counts=True)
    return {str(status): int(count) for status, count in zip(found, counts, strict=True)}


def _stages(hits: Hits) -> dict[str, dict[str, float]]:
    """Server-Timing of right answers, and what it leaves unexplained."""
    right = hits["outcome"] == Outcome.OK
    found: dict[str, dict[str, float]] = {}
    explained = np.zeros(int(right.sum()))
    for name, column in hits.stages.items():
        values = column[right].astype(np.float64)
        known = np.isfinite(values)
        if known.any():
            found[name] = summary(values[known])
            explained += np.where(known, values, 0.0)
    if found:
        service = 1000.0 * (hits["done"] - hits["sent"])[right]
        found["elsewhere"] = summary(np.maximum(service - explained, 0.0))
    return found


def _plain(value: Any) -> Any:
    """NaN is no JSON: what is not known is null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
