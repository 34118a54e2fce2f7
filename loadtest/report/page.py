"""A run's report as one HTML page that needs nothing from elsewhere. Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np

from loadtest.hits import Hits
from loadtest.outcomes import Outcome
from loadtest.report import parts
from loadtest.report.axes import linear, logarithmic, nines
from loadtest.report.plots import Line, Mark, plot
from loadtest.report.summary import measured

_CDF_POINTS: Final = 160
_TASKS: Final = 40
_COLUMNS: Final = ("p50", "p90", "p95", "p99", "p99.9", "max", "mean")
_STYLES: Final = "abcde"
_HOW: Final = (
    '<p class="soft">Milliseconds. Latency counts from the instant at which a request was due, '
    "of right answers; stages are what the server says of itself.</p>"
)


def page(report: Mapping[str, Any], hits: Hits) -> str:
    """Of a report and the hits that it was made of."""
    body = [
        f"<h1>{escape(report['name'])}</h1>",
        f'<p class="soft">{escape(_about(report))}</p>',
        parts.banner([f"Invalid: {fault}" for fault in report["invalid"]]),
        parts.banner(["Broken off before its end."] if report["interrupted"] else []),
        parts.banner([f"Limit missed: {line}" for line in report.get("limits_missed", ())]),
        parts.tiles(_tiles(report)),
        f'<div class="plots">{"".join(_plots(report, hits))}</div>',
        "<h2>Latency</h2>",
        _HOW,
        _latencies(report),
        "<h2>What became of the requests</h2>",
        _outcomes(report),
        "<h2>Tasks</h2>",
        _tasks(report),
        _changes(report["changes"]),
        "<h2>Circumstances</h2>",
        _server(report),
        parts.details("Scenario", report["scenario"]),
        parts.details("Client and machine", _client(report)),
    ]
    return parts.document(f"{report['name']}: load test", "".join(body))


def _about(report: Mapping[str, Any]) -> str:
    arrivals, target = report["scenario"]["arrivals"], report["scenario"]["target"]
    return (
        f"{report['began']}, {arrivals['kind']} arrivals ({report['mode']} loop), "
        f"{report['seconds']:.1f} s after {report['warmup_s']:g} s of warm-up, seed "
        f"{report['scenario']['seed']}, {target['kind']} at {target['url']}"
    )


def _tiles(report: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    rates, latency, tasks = report["rates"], report["latency_ms"], report["tasks"]
    p99, wrong = latency.get("p99"), sum(report["wrong"].values())
    slo = report["slo_ms"]
    jain = tasks["jain"]
    return [
        (f"right within {slo:g} ms, a second", f"{rates['goodput']:.1f}", False),
        (f"within {slo:g} ms, of all", parts.share(report["attainment"]), False),
        ("ms, p50", parts.ms(latency.get("p50")), False),
        ("ms, p99", parts.ms(p99), p99 is None or p99 > slo),
        ("offered a second", f"{rates['offered']:.1f}", False),
        ("failed", f"{report['failed']:,}", report["failed"] > 0),
        ("wrong answers", f"{wrong:,}", wrong > 0),
        ("effective number of tasks", f"{tasks['effective_seen']:.1f}", False),
        ("Jain's fairness over tasks", "–" if jain is None else f"{jain:.4f}", False),
    ]


def _plots(report: Mapping[str, Any], hits: Hits) -> list[str]:
    series = report["series"]
    at, slo = series["at_s"], report["slo_ms"]
    seconds = ("seconds from the start", linear(at[0], at[-1] + series["width_s"], 8))
    latencies = [v for name in ("p50_ms", "p99_ms") for v in series[name] if v is not None]
    top = max([*latencies, slo * 1.05])
    over_time = [
        Line(name, list(zip(at, series[f"{name}_ms"], strict=True)), style)
        for name, style in (("p50", "a"), ("p95", "c"), ("p99", "b"))
    ]
    rates = [
        Line(text, list(zip(at, series[name], strict=True)), style, under=name == "ok")
        for name, text, style in (
            ("offered", "offered", "e"),
            ("ok", "right", "a"),
            ("goodput", "right in time", "c"),
            ("failed", "failed", "d"),
        )
    ]
    highest = max(max(line.points, key=lambda p: p[1] or 0.0)[1] or 0.0 for line in rates)
    limit = Mark("SLO", slo, upright=False)
    changes = [Mark("a change", c["at"], upright=True, style="e") for c in report["changes"]]
    against = Line(
        "p99 of a second",
        list(zip(series["offered"], series["p99_ms"], strict=True)),
        "b",
        dots=True,
    )
    middle = Line(
        "p50 of a second",
        list(zip(series["offered"], series["p50_ms"], strict=True)),
        "a",
        dots=True,
    )
    low = max(min([*latencies, slo]), 0.01)
    return [
        _cdf(report, hits),
        plot("Latency over time", over_time, seconds, ("ms", linear(0, top, 5)), [limit, *changes]),
        plot("Requests over time", rates, seconds, ("a second", linear(0, highest, 5)), changes),
        plot(
            "Latency against rate",
            [middle, against],
            ("offered a second", linear(0, max(series["offered"]), 6)),
            ("ms", logarithmic(low, top)),
            [limit],
        ),
    ]


def _cdf(report: Mapping[str, Any], hits: Hits) -> str:
    seen = measured(hits)
    right = seen["outcome"] == Outcome.OK
    done, count = seen["done"][right], int(right.sum())
    # As many points near the tail as in the middle: equal steps of the axis.
    shares = 1.0 - np.logspace(0, -np.log10(max(count, 10)), _CDF_POINTS)
    lines, values = [], [report["slo_ms"]]
    for name, since, style in (("from sending", "sent", "a"), ("latency", "scheduled", "b")):
        took = np.sort(1000.0 * (done - seen[since][right]))
        points: list[tuple[float, float | None]] = []
        for below in shares if count else ():
            value = float(took[min(int(np.ceil(below * count)), count - 1)])
            points.append((value, float(below)))
            values.append(max(value, 0.01))
        lines.append(Line(name, points, style, under=since == "sent"))
    x = ("ms", logarithmic(min(values), max(values)))
    mark = Mark("SLO", report["slo_ms"], upright=True)
    return plot("Answered within", lines, x, ("share of right answers", nines(count)), [mark])


def _latencies(report: Mapping[str, Any]) -> str:
    names = {"latency_ms": "latency", "service_ms": "from sending", "lag_ms": "left late"}
    found = {text: report[key] for key, text in names.items()}
    found |= {f"· {stage}": values for stage, values in report["stages_ms"].items()}
    rows = [(name, *(parts.ms(v.get(c)) for c in _COLUMNS)) for name, v in found.items()]
    means = {stage: v["mean"] for stage, v in report["stages_ms"].items()}
    total = sum(means.values())
    shown = ""
    if total > 0:
        named = list(zip(means.items(), _STYLES * 4, strict=False))
        shown = parts.bar([(style, mean / total) for (_, mean), style in named])
        keys = "".join(
            f'<span class="key"><i class="{style}"></i>{escape(stage)} {mean / total:.0%}</span>'
            for (stage, mean), style in named
        )
        told = '<p class="soft">Where the time of the mean answer went:</p>'
        shown = f'{told}{shown}<p class="keys">{keys}</p>'
    return parts.table(("ms", *_COLUMNS), rows) + _chance(report["latency_ms"]) + shown


def _chance(latency: Mapping[str, Any]) -> str:
    low, high = latency["p99_interval"]
    if low is None:
        return '<p class="soft">The run is too short to tell p99 from chance.</p>'
    between = f"{parts.ms(low)} … {parts.ms(high)} ms"
    return f'<p class="soft">p99 is {between} by chance (95 %, blocks of seconds drawn anew).</p>'


def _outcomes(report: Mapping[str, Any]) -> str:
    total = max(report["hits"], 1)
    rows = [
        (name.replace("_", " "), f"{n:,}", parts.share(n / total))
        for name, n in report["outcomes"].items()
    ]
    rows += [
        (f"· wrong {name}", f"{n:,}", parts.share(n / total)) for name, n in report["wrong"].items()
    ]
    rows += [
        (f"status {status}", f"{n:,}", parts.share(n / total))
        for status, n in report["statuses"].items()
    ]
    return parts.table(("", "requests", "share"), rows)


def _tasks(report: Mapping[str, Any]) -> str:
    tasks = report["tasks"]
    most = max((row["asked"] for row in tasks["rows"]), default=1)
    rows = [
        (
            row["task"],
            f"{row['asked']:,}",
            parts.bar([("c", row["good"] / most), ("d", (row["asked"] - row["good"]) / most)]),
            parts.share(row["good"] / row["asked"]),
            parts.ms(row["p50_ms"]),
            parts.ms(row["p99_ms"]),
        )
        for row in tasks["rows"][:_TASKS]
    ]
    more = tasks["asked"] - len(rows)
    told = f"{tasks['asked']} of {tasks['known']} tasks were asked for; the busiest first" + (
        f", {more} more are not shown." if more > 0 else "."
    )
    columns = ("task", "asked", "in time | not", "in time", "p50 ms", "p99 ms")
    return f'<p class="soft">{told}</p>' + parts.table(columns, rows)


def _changes(changes: Sequence[Mapping[str, Any]]) -> str:
    if not changes:
        return ""
    rows = [
        (f"{c['at']:.1f} s", c["kind"], c["task"], str(c["status"]), parts.ms(c["took_ms"]))
        for c in changes[:_TASKS]
    ]
    refused = sum(not c["made"] for c in changes)
    more = f"; the first {_TASKS} are shown" if len(changes) > _TASKS else ""
    told = f'<p class="soft">{len(changes)} changes, {refused} of them refused{more}.</p>'
    head = f"<h2>Changes</h2>{told}"
    return head + parts.table(("at", "change", "task", "status", "ms"), rows)


def _server(report: Mapping[str, Any]) -> str:
    histograms = report["server"]["histograms"]
    rows = [
        (
            f"{name} {labels}".strip(),
            f"{of['count']:,.0f}",
            f"{of['mean']:.4g}",
            *("–" if of[q] is None else f"≤ {of[q]:g}" for q in ("p50_at_most", "p99_at_most")),
        )
        for name, by in histograms.items()
        for labels, of in by.items()
        if name.startswith("rootstock_")
    ]
    if not rows:
        return ""
    return '<p class="soft">What the server\'s own /metrics took in meanwhile.</p>' + parts.table(
        ("metric", "count", "mean", "p50", "p99"), rows
    )


def _client(report: Mapping[str, Any]) -> dict[str, Any]:
    return {"clients": report["clients"], "images": report["images"], **report["environment"]}
