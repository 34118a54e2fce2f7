"""The highest rate that holds the SLO, what comes beyond it, and how soon that is over."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from loadtest.attack import Prepared, attack, prepare
from loadtest.calm import calmed
from loadtest.crew import Crew, crew
from loadtest.environment import environment, published
from loadtest.errors import ScenarioError
from loadtest.hits import Hits
from loadtest.overload import outcome_of, overloading
from loadtest.report.summary import report
from loadtest.scenario import Closed, Flash, Replay, Scenario, at_rate
from loadtest.search import Probe, bracket, by_client, ended_at, next_rate, refusals, step_s
from loadtest.targets.table import target as make_target

SCHEMA: Final = "rootstock-loadtest-saturation/1"
Step = Callable[[dict[str, Any], Hits], None]


async def saturate(
    scenario: Scenario,
    *,
    step: Step = lambda _step, _hits: None,
    stop: asyncio.Event | None = None,
) -> dict[str, Any]:
    """Search, then overload.

    Args:
        scenario: whose rates are scaled.
        step: called after every run.
        stop: once it is set, what was found so far comes back.

    Raises:
        LoadtestError, OSError: as `attack` does.
    """
    if isinstance(scenario.arrivals, Closed | Replay):
        fault = f"arrivals of kind {scenario.arrivals.kind} have no rate to search for"
        raise ScenarioError(scenario.name, (fault,))
    stepping(scenario, scenario.saturate.max_rate)  # raises before anything is asked
    prepared = await prepare(scenario)
    async with crew() as members:
        return await _searched(scenario, prepared, members, step, stop or asyncio.Event())


async def _searched(
    scenario: Scenario, prepared: Prepared, members: Crew, step: Step, stop: asyncio.Event
) -> dict[str, Any]:
    settings = scenario.saturate
    probes: list[Probe] = []
    steps: list[dict[str, Any]] = []
    # What does not answer one request after another in time will bear no rate.
    calm = not settings.settle_s or await _settled(scenario, prepared, stop) is not None
    while calm and not stop.is_set() and (rate := next_rate(probes, settings)) is not None:
        if probes:
            await _settled(scenario, prepared, stop)
        tried = stepping(scenario, rate)
        hits = await attack(tried, prepared=prepared, members=members, stop=stop)
        value = report(hits)
        reasons = refusals(value, settings)
        if stop.is_set():
            break
        probes.append(Probe(rate, not reasons, value["valid"]))
        steps.append(_step(rate, value, reasons))
        steps[-1]["by_client"] = bool(reasons) and by_client(value, settings)
        step(steps[-1], hits)
    found = bracket(probes, settings.tries)
    stopped = stop.is_set()
    bound = ended_at(found, steps, stopped=stopped) if calm or stopped else "never calm"
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "name": scenario.name,
        "slo_ms": scenario.slo.latency_ms,
        "knee": found.low,
        "too_high": found.high,
        "bound": bound,
        "interrupted": stop.is_set(),
        "steps": steps,
        "overload": [],
        "tasks": {"known": len(prepared.names), "effective": prepared.plan(scenario).effective},
        "scenario": published(scenario),
        "environment": environment(),
    }
    if found.low is not None and bound != "client":
        for factor in settings.overload:
            if stop.is_set():
                break
            await _settled(scenario, prepared, stop)
            pressed = overloading(scenario, found.low, factor)
            hits = await attack(pressed, prepared=prepared, members=members, stop=stop)
            if not stop.is_set():
                result["overload"].append(outcome_of(hits, factor))
                step({"rate": factor * found.low, "overload": factor}, hits)
        result["interrupted"] = stop.is_set()
    return result


def _step(rate: float, value: dict[str, Any], reasons: list[str]) -> dict[str, Any]:
    latency = value["latency_ms"]
    return {
        "rate": rate,
        "passed": not reasons,
        "reasons": reasons,
        "rates": value["rates"],
        "attainment": value["attainment"],
        "failed_share": value["failed_share"],
        "p50_ms": latency.get("p50"),
        "p99_ms": latency.get("p99"),
        "valid": value["valid"],
    }


def stepping(scenario: Scenario, rate: float) -> Scenario:
    """A step of the search at this rate.

    Raises:
        ScenarioError: the step is over before its peak is.
    """
    length_s = scenario.warmup_s + step_s(rate, scenario.saturate)
    arrivals = scenario.arrivals
    if isinstance(arrivals, Flash) and arrivals.at_s + arrivals.rise_s >= length_s:
        begin_s = arrivals.at_s + arrivals.rise_s
        fault = f"its crowd comes at {begin_s:g} s, a step ends at {length_s:g} s: longer step_s"
        raise ScenarioError(scenario.name, (fault,))
    return at_rate(scenario.model_copy(update={"duration_s": length_s}), rate)


async def _settled(scenario: Scenario, prepared: Prepared, stop: asyncio.Event) -> float | None:
    plan = prepared.plan(scenario)
    target = make_target(scenario.target, plan.names, prepared.pictures)
    return await calmed(scenario, plan, target, stop)
