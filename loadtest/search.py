"""Looks for the highest rate that a server bears: up in doublings, then by bisection. Pure."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadtest.scenario import Saturate

_UP: Final = 2.0
_RATE_MIN: Final = 0.05
_NEVER_SENT: Final = ("dropped", "unsent")
_GROWTH: Final = 0.5  # of the SLO, within one step: a queue that grows
_REQUESTS_MIN: Final = 20  # of a step: fewer say nothing
_LONGER_MAX: Final = 10.0  # as long as it was asked to be, for their sake


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate, tried once."""

    rate: float
    passed: bool
    valid: bool = True  # the client kept its schedule


@dataclass(frozen=True, slots=True)
class Bracket:
    """Between what was borne and what was not."""

    low: float | None
    high: float | None


def bracket(probes: Sequence[Probe], tries: int) -> Bracket:
    """A rate is borne when it passed once, and too high when it failed `tries` times.

    Failures with a client that fell behind count half: a burst that it made may be their reason.
    A rate that passed with such a client is borne: its latency counts from the schedule.
    """
    passed = {probe.rate for probe in probes if probe.passed}
    failed: Counter[float] = Counter()
    for probe in probes:
        if not probe.passed:
            failed[probe.rate] += 2 if probe.valid else 1
    too_high = [r for r, times in failed.items() if times >= 2 * tries and r not in passed]
    return Bracket(max(passed, default=None), min(too_high, default=None))


def next_rate(probes: Sequence[Probe], settings: Saturate) -> float | None:
    """The rate to try next; None when the answer is as near as it was asked for."""
    if not probes:
        return settings.start_rate
    last = probes[-1].rate
    found = bracket(probes, settings.tries)
    borne = any(probe.passed for probe in probes if probe.rate == last)
    if not borne and (found.high is None or last < found.high):
        return last
    if found.high is None:
        assert found.low is not None
        rate = min(found.low * _UP, settings.max_rate)
        return None if rate == found.low else rate
    if found.low is None:
        rate, enough = found.high / _UP, found.high / _UP < _RATE_MIN
    else:
        rate = math.sqrt(found.low * found.high)
        enough = found.high / found.low <= 1.0 + settings.tolerance
    return None if enough else rate


def step_s(rate: float, settings: Saturate) -> float:
    """How long a rate is tried: longer where it is so low that too few requests would come."""
    return min(max(settings.step_s, _REQUESTS_MIN / rate), _LONGER_MAX * settings.step_s)


def by_client(report: Mapping[str, Any], settings: Saturate) -> bool:
    """Whether a failure is the client's alone: counted from sending, the server was in time."""
    service = report["service_ms"].get("p99")
    refused = report["failed"] - sum(report["outcomes"].get(name, 0) for name in _NEVER_SENT)
    few = refused <= settings.errors_max * max(report["hits"], 1)
    return not report["valid"] and few and service is not None and service <= report["slo_ms"]


def refusals(report: Mapping[str, Any], settings: Saturate) -> list[str]:
    """Why a rate was not borne; empty where it was."""
    found = []
    slo_ms, p99 = report["slo_ms"], report["latency_ms"].get("p99")
    if p99 is None:
        return ["no right answer"]
    if p99 > slo_ms:
        found.append(f"p99 {p99:.1f} ms")
    if report["failed_share"] > settings.errors_max:
        found.append(f"{report['failed_share']:.2%} failed")
    if (share := report["attainment"]) is not None and share < settings.achieved_min:
        found.append(f"{share:.2%} within the SLO")
    growth = report["trend_ms_per_s"] * report["seconds"]
    if growth > _GROWTH * slo_ms:
        found.append(f"latency grew by {growth:.0f} ms")
    return found


def ended_at(found: Bracket, steps: Sequence[Mapping[str, Any]], *, stopped: bool) -> str:
    """What the search ended at: the server, the client, both, or a setting.

    Args:
        found: what was borne, and what was not.
        steps: every try, with `rate`, `valid` and `by_client`.
        stopped: whether it was broken off.
    """
    if stopped:
        return "broken off"
    if found.low is None:
        return "nothing was borne"
    at_high = [step for step in steps if step["rate"] == found.high]
    if not at_high:
        return "max_rate"
    if all(step["by_client"] for step in at_high):
        return "client"
    return "server" if any(step["valid"] for step in at_high) else "shared"
