"""Rounds of every system to rows, verdicts and cells that a peer wins. Pure.

A row is {system, tasks, metric, value}: the median of its rounds. A system that answered wrongly,
or in another dtype than was asked for, is void: it has no rows, and its reasons are told.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from loadtest.peers.systems import OURS

Row = dict[str, Any]

AGREEMENT_MIN: Final = 0.99
MEMORY_MAX: Final = 0.1  # of LitServe's, at the most tasks
FASTER_MIN: Final = 1.3  # times the best peer
ADD_S_MAX: Final = 1.0
ROUNDING: Final[Mapping[str, int]] = {
    "agreement": 4,
    "start_s": 2,
    "add_s": 2,
}
# Whether less is better; other metrics are only told.
LESS: Final[Mapping[str, bool]] = {
    "memory_mb": True,
    "memory_mb_per_task": True,
    "start_s": True,
    "throughput": False,
    "p50_ms": True,
    "p99_ms": True,
    "goodput": False,
    "p50_ms_high": True,
    "p99_ms_high": True,
    "goodput_high": False,
    "add_s": True,
    "add_failed": True,
}
TOLD: Final = (
    *LESS,
    *("agreement", "wrong", "failed", "offered", "failed_high", "offered_high", "add_sent"),
    "loaded_memory_mb",
)


def voids(part: Mapping[str, Any], dtype: str) -> list[str]:
    """Why a system's figures say nothing; empty where they do."""
    found = []
    for figures in _all(part):
        if "agreement" in figures and figures["agreement"] < AGREEMENT_MIN:
            share = f"{figures['agreement']:.1%} of answers agree (at least {AGREEMENT_MIN:.0%})"
            found.append(f"{share}, of {figures['asked']}")
        if "dtypes" in figures and figures["dtypes"] != [dtype]:
            told = ", ".join(figures["dtypes"]) or "nothing"
            found.append(f"it computes in {told}, the others in {dtype}")
    if not any("agreement" in figures for figures in _all(part)):
        found.append("its answers were never held to the truth")
    return sorted(set(found))


def rows(parts: Sequence[Mapping[str, Any]], dtype: str) -> list[Row]:
    """Of all systems; a null with a reason where a system failed with so many tasks."""
    found: list[Row] = []
    for part in parts:
        if voids(part, dtype):
            continue
        system = part["system"]
        for tasks in sorted({int(n) for one in part["rounds"] for n in one}):
            of = [one[str(tasks)] for one in part["rounds"] if str(tasks) in one]
            good = [figures for figures in of if "why" not in figures]
            base = {"system": system, "tasks": tasks}
            if not good:
                found.append({**base, "metric": "served", "value": None, "why": of[0]["why"]})
                continue
            for metric in TOLD:
                values = [f[metric] for f in good if f.get(metric) is not None]
                if values:
                    value = round(statistics.median(values), ROUNDING.get(metric, 1))
                    found.append({**base, "metric": metric, "value": value})
        found += _per_task(found, system)
    return found


def _per_task(found: Sequence[Row], system: str) -> list[Row]:
    """What a further task takes, from the fewest to the most."""
    held = {r["tasks"]: r["value"] for r in found if _is(r, system, "memory_mb")}
    if len(held) < 2:
        return []
    few, many = min(held), max(held)
    value = round((held[many] - held[few]) / (many - few), 3)
    return [{"system": system, "tasks": many, "metric": "memory_mb_per_task", "value": value}]


def value(found: Sequence[Row], system: str, tasks: int, metric: str) -> float | None:
    """Of one cell."""
    for row in found:
        if _is(row, system, metric) and row["tasks"] == tasks:
            held: float | None = row["value"]
            return held
    return None


def verdicts(found: Sequence[Row]) -> list[dict[str, Any]]:
    """What is expected of Rootstock beside what was measured; `met` is null where not known."""
    sizes = sorted({row["tasks"] for row in found})
    if not sizes:
        return []
    most = sizes[-1]
    told = []
    for metric, name in (
        ("memory_mb", f"memory with {most} tasks ÷ LitServe's"),
        ("memory_mb_per_task", "memory of a further task ÷ LitServe's"),
    ):
        ours, theirs = (value(found, s, most, metric) for s in (OURS, "litserve"))
        share = ours / theirs if ours is not None and theirs else None
        told.append(_verdict(name, f"at most {MEMORY_MAX:g}", share, MEMORY_MAX, less=True))
    for tasks in sizes:
        if tasks == 1:
            continue
        ours = value(found, OURS, tasks, "throughput")
        best = best_peer(found, tasks, "throughput")
        ratio = ours / best[1] if ours is not None and best and best[1] else None
        name = f"right answers a second with {tasks} tasks ÷ the best peer's"
        name += f" ({best[0]})" if best else ""
        told.append(_verdict(name, f"at least {FASTER_MIN:g}", ratio, FASTER_MIN, less=False))
    for tasks in sizes:
        took, failed = (value(found, OURS, tasks, m) for m in ("add_s", "add_failed"))
        if took is not None and failed is not None:
            name = "seconds until a task that is published under load is answered"
            told.append(_verdict(name, f"at most {ADD_S_MAX:g}", took, ADD_S_MAX, less=True))
            name = "requests that failed meanwhile"
            told.append(_verdict(name, "none", failed, 0.0, less=True))
    return told


def best_peer(found: Sequence[Row], tasks: int, metric: str) -> tuple[str, float] | None:
    """The peer that is best in a cell."""
    held = [
        (r["value"], r["system"])
        for r in found
        if r["metric"] == metric
        and r["tasks"] == tasks
        and r["system"] != OURS
        and r["value"] is not None
    ]
    if not held:
        return None
    best = min(held) if LESS[metric] else max(held)
    return best[1], best[0]


def lost(found: Sequence[Row]) -> list[dict[str, Any]]:
    """Cells in which a peer is better than Rootstock."""
    told = []
    for tasks in sorted({row["tasks"] for row in found}):
        for metric, less in LESS.items():
            ours, best = value(found, OURS, tasks, metric), best_peer(found, tasks, metric)
            if ours is None or best is None or best[1] == ours:
                continue
            if (best[1] < ours) == less:
                cell = {"tasks": tasks, "metric": metric}
                told.append({**cell, "system": best[0], "value": best[1], "ours": ours})
    return told


def slowest(tuned: Mapping[str, float]) -> float:
    """Right answers a second of the slowest peer; of Rootstock where it is alone."""
    peers = [rate for name, rate in tuned.items() if name != OURS and rate > 0]
    return min(peers or tuned.values())


def _verdict(
    what: str, wanted: str, measured: float | None, bound: float, *, less: bool
) -> dict[str, Any]:
    met = None if measured is None else bool(measured <= bound if less else measured >= bound)
    rounded = None if measured is None else round(measured, 3)
    return {"what": what, "wanted": wanted, "measured": rounded, "met": met}


def _all(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [figures for one in part["rounds"] for figures in one.values()]


def _is(row: Row, system: str, metric: str) -> bool:
    return bool(row["system"] == system and row["metric"] == metric)
