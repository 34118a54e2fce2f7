"""The result as a page of Markdown. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from loadtest.peers.rows import LESS, Row, best_peer, value
from loadtest.peers.systems import OURS, SYSTEMS, words

_TITLES: Final = {system.name: system.title for system in SYSTEMS}
_METRICS: Final[Mapping[str, str]] = {
    "memory_mb": "memory, MB",
    "memory_mb_per_task": "memory of a further task, MB",
    "start_s": "start, s",
    "throughput": "right answers /s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "goodput": "goodput /s",
    "p50_ms_high": "p50 ms, high rate",
    "p99_ms_high": "p99 ms, high rate",
    "goodput_high": "goodput /s, high rate",
    "add_s": "adding a task, s",
    "add_failed": "failed meanwhile",
}


def page(result: Mapping[str, Any], notes: str) -> str:
    """All of it: `result` is what the JSON file holds."""
    lines = [
        "# Rootstock beside what users would run instead",
        "",
        f"Written by `{result['command']}`; not by hand. {_how(result)}",
        "",
        "## What was expected of Rootstock",
        "",
        "| what | wanted | measured | |",
        "|---|--:|--:|---|",
        *(_verdict(verdict) for verdict in result["verdicts"]),
        "",
        *_tables(result),
        "## Where a peer is better",
        "",
        *(_lost(result["lost"]) or ["Nowhere in these tables."]),
        "",
        *([notes.strip(), ""] if notes.strip() else []),
        "## How each was run",
        "",
        *(_system(system) for system in result["systems"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _how(result: Mapping[str, Any]) -> str:
    machine, load = result["machine"], result["load"]
    low, high = load["rates"]
    slo = f"{load['slo_ms']:g} ms"
    return (
        f"{result['backbone']}, {result['dtype']}, on {machine['cpus']} cores "
        f"({machine['processor']}) that the client shares, one system at a time; "
        f"{load['pictures']} JPEG pictures of {load['picture_kb']:.0f} kB on average, the same "
        "pixels for all. A task is a LoRA of rank 8 on qkv and proj with a head of its own: "
        "Rootstock and PEFT serve it beside the backbone, the others a whole model with it merged "
        f"in. {load['rounds']} rounds, systems in turn; medians.\n\n"
        "Memory is the proportional set size of all processes, after each task was asked once. "
        "Start: from the command until every task was answered rightly. Right answers a second: a "
        f"closed loop of {load['clients']} clients, tasks uniform, {load['seconds']:g} s. p50, p99 "
        f"and goodput (right within {slo}): Poisson arrivals at {low:.1f}/s for all, 0.6 × what "
        f"the slowest peer answered with {load['tuned_with']} tasks when settings were tried; "
        f"high rate: {high:.1f}/s, 1.2 × that. Adding: from the order to the first right answer, "
        "at the lower rate. Every answer is held to the label that fp32 gives; near ties are left "
        "out."
    )


def _verdict(verdict: Mapping[str, Any]) -> str:
    met = {True: "**met**", False: "**missed**", None: "not known"}[verdict["met"]]
    measured = "—" if verdict["measured"] is None else f"{verdict['measured']:g}"
    return f"| {verdict['what']} | {verdict['wanted']} | {measured} | {met} |"


def _tables(result: Mapping[str, Any]) -> list[str]:
    lines = []
    found = result["rows"]
    for tasks in sorted({row["tasks"] for row in found}):
        metrics = [m for m in _METRICS if best_peer(found, tasks, m) or _has(found, tasks, m)]
        lines += [f"## {_tasks(tasks)}", ""]
        lines += [f"| | {' | '.join(_METRICS[m] for m in metrics)} |"]
        lines += ["|---|" + "--:|" * len(metrics)]
        for system in result["systems"]:
            lines.append(_row(found, system, tasks, metrics))
        lines.append("")
    return lines


def _row(
    found: Sequence[Row], system: Mapping[str, Any], tasks: int, metrics: Sequence[str]
) -> str:
    title = _TITLES[system["name"]]
    if system["void"]:
        return f"| {title} | {' | '.join(['void'] * len(metrics))} |"
    if any("why" in r for r in found if (r["system"], r["tasks"]) == (system["name"], tasks)):
        return f"| {title} | {' | '.join(['not served'] * len(metrics))} |"
    cells = []
    for metric in metrics:
        mine = value(found, system["name"], tasks, metric)
        others = [value(found, name, tasks, metric) for name in _TITLES]
        known = [other for other in others if other is not None]
        best = (min(known) if LESS[metric] else max(known)) if known else None
        text = "—" if mine is None else f"{mine:g}"
        cells.append(f"**{text}**" if mine is not None and mine == best else text)
    return f"| {title} | {' | '.join(cells)} |"


def _has(found: Sequence[Row], tasks: int, metric: str) -> bool:
    return value(found, OURS, tasks, metric) is not None


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _lost(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"- {_METRICS[cell['metric']]}, {_tasks(cell['tasks'])}: "
        f"{_TITLES[cell['system']]} {cell['value']:g}, Rootstock {cell['ours']:g}"
        for cell in cells
    ]


def _system(system: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in system["versions"].items())
    tried = "; ".join(f"{words(one['settings'])}: {_tried(one)}" for one in system["tried"])
    agreed = system["agreement"]
    text = (
        f"- **{_TITLES[system['name']]}** ({versions}): {system['about']}. Kept: "
        f"{words(system['settings'])}. Right answers a second of what was tried: {tried}. "
    )
    if agreed is not None:
        text += f"Answers that agree: {agreed:.1%}."
    if system["void"]:
        text += f" Void: {'; '.join(system['void'])}."
    if system["failures"]:
        text += f" Failed: {'; '.join(system['failures'])}."
    if system["client_late"]:
        text += f" The client was late in {system['client_late']} open loops."
    return text


def _tried(one: Mapping[str, Any]) -> str:
    return f"{one['throughput']:.1f}" if "throughput" in one else f"no ({one['why']})"
