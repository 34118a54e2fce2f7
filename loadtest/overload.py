"""What a server does beyond its limit, and how soon it is itself again. Pure: hits to numbers."""

from typing import Any

import numpy as np

from loadtest.hits import Hits
from loadtest.outcomes import FAILED, Outcome
from loadtest.report.summary import report
from loadtest.scenario import Flash, Scenario
from loadtest.search import step_s

_STEEP_S = 0.01


def overloading(scenario: Scenario, knee: float, factor: float) -> Scenario:
    """Warm-up at half the knee, a step at `factor` times the knee, a step at half again."""
    length_s, warmup_s = step_s(knee, scenario.saturate), scenario.warmup_s
    arrivals = scenario.arrivals
    return scenario.model_copy(
        update={
            "name": f"{scenario.name} at {factor:g} x",
            "duration_s": warmup_s + 2 * length_s,
            "arrivals": Flash(
                kind="flash",
                rate=knee / 2,
                peak_rate=knee * factor,
                at_s=warmup_s,
                rise_s=_STEEP_S,
                hold_s=length_s,
                fall_s=_STEEP_S,
                spacing=getattr(arrivals, "spacing", "poisson"),
                cv=getattr(arrivals, "cv", 1.0),
            ),
        }
    )


def outcome_of(hits: Hits, factor: float) -> dict[str, Any]:
    """Of a run of `overloading`: figures of the overload, and the time of recovery."""
    scenario = hits.header["scenario"]
    begin = float(scenario["warmup_s"])
    end = begin + float(scenario["arrivals"]["hold_s"])
    during = {**scenario, "warmup_s": begin, "duration_s": end}
    value = report(Hits({**hits.header, "scenario": during}, hits.columns, hits.stages))
    outcomes = value["outcomes"]
    return {
        "factor": factor,
        "rates": value["rates"],
        "shed_share": outcomes.get("shed", 0) / max(value["hits"], 1),
        "failed_share": value["failed_share"],
        "outcomes": outcomes,
        "p50_ms": value["latency_ms"].get("p50"),
        "p99_ms": value["latency_ms"].get("p99"),
        "refused_p99_ms": _refused_p99(hits, begin, end),
        "recovery_s": recovery_s(hits, end),
        "valid": value["valid"],
        "invalid": value["invalid"],
    }


def recovery_s(hits: Hits, end: float) -> float | None:
    """From the end of the overload to the first request after which all are answered well.

    None where that did not come while it was watched: in its last tenth requests were still bad.
    """
    slo_s = float(hits.header["scenario"]["slo"]["latency_ms"]) / 1000.0
    last = float(hits.header["scenario"]["duration_s"])
    at, outcome = hits["scheduled"], hits["outcome"]
    late = (outcome == Outcome.OK) & (hits["done"] - at > slo_s)
    bad = (np.isin(outcome, list(FAILED)) | late) & (at >= end)
    if not bad.any():
        return 0.0
    worst = float(at[bad].max())
    return None if worst > last - 0.1 * (last - end) else worst - end


def _refused_p99(hits: Hits, begin: float, end: float) -> float | None:
    """How long it took to be refused."""
    outcome, at = hits["outcome"], hits["scheduled"]
    refused = (outcome == Outcome.SHED) | (outcome == Outcome.LATE)
    chosen = refused & (at >= begin) & (at <= end)
    if not chosen.any():
        return None
    return float(1000.0 * np.quantile((hits["done"] - at)[chosen], 0.99))
