"""What a search for the highest rate found, as text and as a page. Pure."""

from collections.abc import Mapping
from html import escape
from typing import Any

from loadtest.report import parts
from loadtest.report.axes import linear, logarithmic
from loadtest.report.plots import Line, Mark, plot
from loadtest.report.text import table

_BOUNDS = {
    "server": "the server bears no more",
    "client": "the client fell behind beyond it, and the server was in time: it may bear more",
    "shared": "beyond it both client and server were late: on one machine, that is its limit",
    "max_rate": "saturate.max_rate was reached: the server may bear more",
    "nothing was borne": "not even the lowest rate that was tried was borne",
    "never calm": "not even one request after another was answered within the SLO",
    "broken off": "the search was broken off",
}


def text(found: Mapping[str, Any]) -> str:
    """For a terminal."""
    lines = [verdict(found)]
    if not found["steps"]:
        return lines[0]
    lines.append("")
    rows: list[tuple[str, ...]] = [("rate", "right/s", "p50 ms", "p99 ms", "failed", "", "")]
    rows += [
        (
            f"{step['rate']:.1f}",
            f"{step['rates']['ok']:.1f}",
            parts.ms(step["p50_ms"]),
            parts.ms(step["p99_ms"]),
            parts.share(step["failed_share"]),
            _borne(step),
            ", ".join(step["reasons"]),
        )
        for step in found["steps"]
    ]
    lines += table(rows)
    if found["overload"]:
        lines.append("")
        rows = [("overload", "offered/s", "right/s", "in time/s", "refused", "p99 ms", "recovery")]
        rows += [
            (
                f"{row['factor']:g} x",
                f"{row['rates']['offered']:.1f}",
                f"{row['rates']['ok']:.1f}",
                f"{row['rates']['goodput']:.1f}",
                parts.share(row["shed_share"]),
                parts.ms(row["p99_ms"]),
                _seconds(row["recovery_s"]),
            )
            for row in found["overload"]
        ]
        lines += table(rows)
    return "\n".join(lines)


def verdict(found: Mapping[str, Any]) -> str:
    """In one sentence."""
    bound = _BOUNDS[found["bound"]]
    if found["knee"] is None:
        return f"{found['name']}: {bound}"
    above = "" if found["too_high"] is None else f", {found['too_high']:.1f} was too much"
    return (
        f"{found['name']}: {found['knee']:.1f} requests/s with p99 within {found['slo_ms']:g} ms"
        f"{_doubt(found)}{above}; {bound}"
    )


def _doubt(found: Mapping[str, Any]) -> str:
    """Where it was not borne whenever it was tried."""
    tried = [step for step in found["steps"] if step["rate"] == found["knee"]]
    passed = sum(bool(step["passed"]) for step in tried)
    return "" if passed == len(tried) else f" (borne in {passed} of {len(tried)} tries)"


def _borne(step: Mapping[str, Any]) -> str:
    return "borne" if step["passed"] else "too much"


def page(found: Mapping[str, Any]) -> str:
    """As one HTML page that needs nothing from elsewhere."""
    columns = ("rate", "", "p99 ms", "right / s", "failed", "in time", "p50 ms")
    rows = [
        (
            f"{step['rate']:.1f}",
            ": ".join(filter(None, (_borne(step), ", ".join(step["reasons"])))),
            parts.ms(step["p99_ms"]),
            f"{step['rates']['ok']:.1f}",
            parts.share(step["failed_share"]),
            parts.share(step["attainment"]),
            parts.ms(step["p50_ms"]),
        )
        for step in found["steps"]
    ]
    body = [
        f"<h1>{escape(found['name'])}: the highest rate</h1>",
        f"<p>{escape(verdict(found))}</p>",
        parts.tiles(_tiles(found)),
        f'<div class="plots">{_latency(found)}{_throughput(found)}</div>' if rows else "",
        "<h2>Steps, in the order of the search</h2>" if rows else "",
        parts.table(columns, rows, words=1) if rows else "",
        _overload(found),
        "<h2>Circumstances</h2>",
        parts.details("Scenario", found["scenario"]),
        parts.details("Machine", found["environment"]),
    ]
    return parts.document(f"{found['name']}: saturation", "".join(body))


def _tiles(found: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    knee = found["knee"]
    shown = [
        (f"requests a second, p99 within {found['slo_ms']:g} ms", _rate(knee), knee is None),
        ("was too much", _rate(found["too_high"]), False),
        ("effective number of tasks", f"{found['tasks']['effective']:.1f}", False),
    ]
    for row in found["overload"]:
        name = f"right in time a second, at {row['factor']:g} times as much"
        shown.append((name, f"{row['rates']['goodput']:.1f}", False))
        lasting = row["recovery_s"] is None
        name = f"until it was itself again, after {row['factor']:g} times"
        shown.append((name, _seconds(row["recovery_s"]), lasting))
    return shown


def _latency(found: Mapping[str, Any]) -> str:
    # Of several tries of a rate the one that decided: that it was borne, or the last.
    tried = sorted(found["steps"], key=lambda s: bool(s["passed"]))
    deciding = {s["rate"]: s for s in tried if s["p99_ms"] is not None}
    steps = [deciding[rate] for rate in sorted(deciding)]
    rates = [s["rate"] for s in found["steps"]]
    known = [s[name] for s in steps for name in ("p50_ms", "p99_ms")] + [found["slo_ms"]]
    lines = [
        Line(name, [(s["rate"], s[key]) for s in steps], style)
        for name, key, style in (("p50", "p50_ms", "a"), ("p99", "p99_ms", "b"))
    ]
    marks = [Mark("SLO", found["slo_ms"], upright=False)]
    if found["knee"] is not None:
        marks.append(Mark("highest rate borne", found["knee"], upright=True, style="c"))
    x = ("offered a second", linear(0, max(rates), 7))
    return plot(
        "Latency against rate", lines, x, ("ms", logarithmic(min(known), max(known))), marks
    )


def _throughput(found: Mapping[str, Any]) -> str:
    steps = sorted({s["rate"]: s for s in found["steps"]}.values(), key=lambda s: s["rate"])
    beyond = [(row["rates"]["offered"], row["rates"]["goodput"]) for row in found["overload"]]
    most = max([*(s["rate"] for s in steps), *(rate for rate, _ in beyond)])
    lines = [
        Line("offered", [(0.0, 0.0), (most, most)], "e"),
        Line("right", [(s["rate"], s["rates"]["ok"]) for s in steps], "a"),
        Line("right in time", [(s["rate"], s["rates"]["goodput"]) for s in steps], "c"),
    ]
    if beyond:
        lines.append(Line("right in time, when pressed", beyond, "b", dots=True))
    x = ("offered a second", linear(0, most, 7))
    return plot(
        "Throughput against rate, overload included", lines, x, ("a second", linear(0, most, 5))
    )


def _overload(found: Mapping[str, Any]) -> str:
    if not found["overload"]:
        return ""
    rows = [
        (
            f"{row['factor']:g} ×",
            f"{row['rates']['offered']:.1f}",
            f"{row['rates']['ok']:.1f}",
            f"{row['rates']['goodput']:.1f}",
            parts.share(row["shed_share"]),
            parts.ms(row["p50_ms"]),
            parts.ms(row["p99_ms"]),
            parts.ms(row["refused_p99_ms"]),
            _seconds(row["recovery_s"]),
        )
        for row in found["overload"]
    ]
    columns = (
        "load",
        "offered / s",
        "right / s",
        "in time / s",
        "refused",
        "p50 ms",
        "p99 ms",
        "p99 of refusals",
        "recovery",
    )
    return "<h2>Beyond it</h2>" + parts.table(columns, rows)


def _seconds(value: float | None) -> str:
    return "not seen" if value is None else f"{value:.1f} s"


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
