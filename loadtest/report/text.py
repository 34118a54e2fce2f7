"""A report for a terminal. Pure: a value to lines."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_TASKS_SHOWN: Final = 8
_COLUMNS: Final = ("p50", "p90", "p95", "p99", "p99.9", "max", "mean")


def text(report: Mapping[str, Any]) -> str:
    """Everything that decides, in one screen."""
    lines = [_title(report), ""]
    rates = report["rates"]
    lines.append(
        f"rates/s     offered {rates['offered']:.1f}   answered {rates['answered']:.1f}   "
        f"right {rates['ok']:.1f}   within {report['slo_ms']:g} ms {rates['goodput']:.1f}"
        + _share(report["attainment"])
    )
    lines += _latencies(report)
    lines.append("")
    outcomes = "   ".join(f"{name} {n}" for name, n in report["outcomes"].items())
    lines.append(f"outcomes    {outcomes}")
    if report["statuses"]:
        statuses = "   ".join(f"{status} × {n}" for status, n in report["statuses"].items())
        lines.append(f"statuses    {statuses}")
    if report["wrong"]:
        wrong = ", ".join(f"{name} {n}" for name, n in report["wrong"].items())
        lines.append(f"WRONG       {wrong}")
    lines += _tasks(report["tasks"])
    lines += _changes(report["changes"])
    lines += _client(report)
    return "\n".join(lines)


def _title(report: Mapping[str, Any]) -> str:
    arrivals = report["scenario"]["arrivals"]
    ended = ", broken off" if report["interrupted"] else ""
    return (
        f"{report['name']}: {arrivals['kind']}, {report['seconds']:.1f} s after "
        f"{report['warmup_s']:g} s of warm-up{ended}, seed {report['scenario']['seed']}, "
        f"{report['hits']} requests"
    )


def _latencies(report: Mapping[str, Any]) -> list[str]:
    rows: list[tuple[str, ...]] = [("ms", *_COLUMNS)]
    names = {
        "latency_ms": "latency",
        "service_ms": "from sending",
        "lag_ms": "left late",
    }
    for key, name in names.items():
        rows.append((name, *(_ms(report[key].get(column)) for column in _COLUMNS)))
    for stage, values in report["stages_ms"].items():
        rows.append((f"  {stage}", *(_ms(values.get(column)) for column in _COLUMNS)))
    found = ["", *table(rows)]
    low, high = report["latency_ms"].get("p99_interval", (None, None))
    if low is not None:
        found.append(f"{'':12}p99 is {low:.1f} … {high:.1f} ms by chance (95 %)")
    elif report["hits"]:
        found.append(f"{'':12}too short to tell p99 from chance")
    return found


def _tasks(tasks: Mapping[str, Any]) -> list[str]:
    jain, worst = tasks["jain"], tasks["worst_attainment"]
    fair = "" if jain is None else f"   Jain {jain:.4f}, worst within the SLO {worst:.1%}"
    numbers = f"{tasks['effective_seen']:.1f} (law: {tasks['effective_planned']:.1f})"
    asked = f"{tasks['asked']} of {tasks['known']} asked for"
    found = [f"tasks       {asked}, effective number {numbers}{fair}"]
    if tasks["known"] > 1:
        rows: list[tuple[str, ...]] = [("", "asked", "good", "failed", "p50", "p99")]
        for row in tasks["rows"][:_TASKS_SHOWN]:
            counts = (str(row[name]) for name in ("asked", "good", "failed"))
            rows.append((f"  {row['task'][:28]}", *counts, _ms(row["p50_ms"]), _ms(row["p99_ms"])))
        found += table(rows)
        more = tasks["asked"] - _TASKS_SHOWN
        found += [f"  … and {more} more"] if more > 0 else []
    return found


def _changes(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for kind in dict.fromkeys(change["kind"] for change in changes):
        took = sorted(c["took_ms"] for c in changes if c["kind"] == kind)
        refused = sum(not c["made"] for c in changes if c["kind"] == kind)
        found.append(
            f"changes     {kind} × {len(took)}, {refused} refused, "
            f"median {took[len(took) // 2]:.0f} ms, longest {took[-1]:.0f} ms"
        )
    return found


def _client(report: Mapping[str, Any]) -> list[str]:
    cpus = ", ".join(f"{client['cpu']:.0%}" for client in report["clients"])
    found = [f"client      {len(report['clients'])} process(es), cores used {cpus}"]
    found += [f"INVALID     {fault}" for fault in report["invalid"]]
    return found


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = max(widths[0], 11)
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "" if value is None else f" ({value:.2%})"
