"""All systems in turn: settings are tried, rounds measured, and what is done is kept at once."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from loadtest.crew import crew
from loadtest.errors import LoadtestError
from loadtest.peers import parts, venvs
from loadtest.peers.bench import Bench
from loadtest.peers.measure import measured, tried
from loadtest.peers.parts import Part
from loadtest.peers.rows import slowest
from loadtest.peers.systems import System, words
from loadtest.peers.workplace import Workplace

TUNED_WITH: Final = 8  # tasks, or the nearest that is measured
_TRY_SHARE: Final = 0.5  # of a load's seconds
LOW: Final = 0.6  # of what the slowest peer answers: the common rate
HIGH: Final = 1.2

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured."""

    systems: tuple[System, ...]
    tasks: tuple[int, ...]
    rounds: int
    seconds: float
    clients: int
    slo_ms: float
    start_s: float
    rate: float  # 0: of the slowest peer
    folder: Path  # of parts

    @property
    def tuned_with(self) -> int:
        """Tasks with which settings are tried, and everything is measured."""
        return min(self.tasks, key=lambda n: abs(n - TUNED_WITH))


@dataclass(frozen=True, slots=True)
class Campaign:
    """What came of it."""

    parts: list[Part]
    rates: tuple[float, float]


async def run(wanted: Wanted, place: Workplace, key: Mapping[str, Any], say: Say) -> Campaign:
    """Measure what no part has yet.

    Raises:
        PeerError: no environment can be made, or no system serves at all.
    """
    interpreters = {}
    for system in wanted.systems:
        say(f"{system.title}: environment")
        interpreters[system.name] = (
            Path(sys.executable) if system.ours else venvs.python(system.name)
        )
    held = {s.name: parts.held(wanted.folder, s.name, key) for s in wanted.systems}
    async with crew() as members:
        bench = Bench(
            place, members, wanted.seconds, wanted.clients, wanted.slo_ms, wanted.start_s, (0, 0)
        )
        for system in wanted.systems:
            part = held[system.name]
            part["versions"] = venvs.versions(interpreters[system.name], system.packages)
            await _tune(bench, system, interpreters[system.name], part, wanted, say)
        tuned = {
            name: max((t.get("throughput", 0.0) for t in part["tuning"]), default=0.0)
            for name, part in held.items()
        }
        low = wanted.rate or LOW * slowest(tuned)
        rates = low, low * HIGH / LOW
        say(f"common rates: {rates[0]:.1f}/s and {rates[1]:.1f}/s")
        bench = replace(bench, rates=rates)
        for number in range(wanted.rounds):
            for system in wanted.systems:
                part = held[system.name]
                if len(part["rounds"]) > number or "settings" not in part:
                    continue
                found = await _round(
                    bench, system, interpreters[system.name], part, number, wanted, say
                )
                part["rounds"].append(found)
                parts.keep(wanted.folder, part)
    return Campaign([held[s.name] for s in wanted.systems], rates)


async def _tune(
    bench: Bench, system: System, interpreter: Path, part: Part, wanted: Wanted, say: Say
) -> None:
    """Try every setting that was not tried yet, and keep the best."""
    done = [one["settings"] for one in part["tuning"]]
    brief = replace(bench, seconds=max(2.0, _TRY_SHARE * bench.seconds))
    for settings in system.grid:
        if dict(settings) in done:
            continue
        one: dict[str, Any] = {"settings": dict(settings)}
        try:
            one |= await tried(brief, system, interpreter, settings, wanted.tuned_with)
            said = f"{one['throughput']:.1f}/s, up in {one['start_s']:.1f} s"
        except LoadtestError as error:
            one["why"] = said = str(error)
        say(f"{system.title}: {words(settings)}: {said}")
        part["tuning"].append(one)
        parts.keep(wanted.folder, part)
    best = max(part["tuning"], key=lambda one: one.get("throughput", 0.0))
    if best.get("throughput"):
        part["settings"] = best["settings"]
        parts.keep(wanted.folder, part)


async def _round(
    bench: Bench,
    system: System,
    interpreter: Path,
    part: Part,
    number: int,
    wanted: Wanted,
    say: Say,
) -> dict[str, Any]:
    """One turn of a system: every number of tasks."""
    found: dict[str, Any] = {}
    for count in wanted.tasks:
        began = time.monotonic()
        try:
            figures = await measured(
                bench,
                system,
                interpreter,
                part["settings"],
                count,
                whole=count == wanted.tuned_with,
                checked=number == 0,
            )
            said = _said(figures)
        except LoadtestError as error:
            figures = {"why": str(error)}
            said = str(error)
        found[str(count)] = figures
        took = time.monotonic() - began
        say(f"round {number + 1}, {system.title}, {count} tasks: {said} ({took:.0f} s)")
        await asyncio.sleep(1.0)  # what was ended is out of the way
    return found


def _said(figures: Mapping[str, Any]) -> str:
    words = [
        f"{figures['memory_mb']:.0f} MB",
        f"up in {figures['start_s']:.1f} s",
        f"{figures['throughput']:.1f}/s",
    ]
    if "p99_ms" in figures:
        words += [f"p99 {figures['p99_ms'] or 0:.0f} ms", f"high {figures['goodput_high']:.1f}/s"]
        words += [f"added in {figures['add_s']:.2f} s, {figures['add_failed']} failed"]
    if "agreement" in figures:
        words += [f"agrees {figures['agreement']:.1%}"]
    return ", ".join(words)


def described(systems: Sequence[System], done: Campaign, voids: Mapping[str, list[str]]) -> Any:
    """What the result says of every system."""
    by_name = {part["system"]: part for part in done.parts}
    told = []
    for system in systems:
        part = by_name[system.name]
        figures = [f for one in part["rounds"] for f in one.values()]
        failures = [
            f"{count} tasks: {f['why']}"
            for one in part["rounds"]
            for count, f in one.items()
            if "why" in f
        ]
        agreed = [f["agreement"] for f in figures if "agreement" in f]
        late = [late for f in figures for n, late in f.items() if n.startswith("client_late")]
        told.append(
            {
                "name": system.name,
                "about": system.about,
                "versions": part["versions"],
                "settings": part.get("settings", {}),
                "tried": part["tuning"],
                "agreement": min(agreed) if agreed else None,
                "dtypes": sorted({d for f in figures for d in f.get("dtypes", [])}),
                "void": voids[system.name],
                "failures": sorted(set(failures)),
                "client_late": f"{sum(late)} of {len(late)}" if any(late) else "",
            }
        )
    return told
