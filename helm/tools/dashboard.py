"""The Grafana dashboard as data: rows of panels, each a few queries. Knows no template.

Every metric is in `serving.telemetry`; what may never have happened is filled with zero, so that
an empty panel means that nothing is scraped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_WHO: Final = 'job=~"$job"'
_RATE: Final = "[$__rate_interval]"
_MEAN: Final = "sum by (source) ({0}_sum{{{who}}}) / sum by (source) ({0}_count{{{who}}})"
_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 24


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; `queries` are (expression, legend)."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    what: str = ""
    kind: str = "timeseries"


def _rate(metric: str, *by: str, where: str = "") -> str:
    matched = ",".join(filter(None, (_WHO, where)))
    grouped = f" by ({', '.join(by)})" if by else ""
    return f"sum{grouped} (rate({metric}{{{matched}}}{_RATE}))"


def _gauge(metric: str, *by: str, how: str = "sum") -> str:
    grouped = f" by ({', '.join(by)})" if by else ""
    return f"{how}{grouped} ({metric}{{{_WHO}}})"


def _quantiles(metric: str, where: str = "", *by: str) -> tuple[tuple[str, str], ...]:
    inner = _rate(f"{metric}_bucket", "le", *by, where=where)
    legend = "".join(f" {{{{{name}}}}}" for name in by)
    shares = ("0.5", "0.99") if by else ("0.5", "0.9", "0.99")
    return tuple(
        (f"histogram_quantile({share}, {inner})", f"p{float(share) * 100:.0f}{legend}")
        for share in shares
    )


def _or_zero(query: str) -> str:
    return f"{query} or vector(0)"


ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "Service",
        (
            Panel(
                "Predict calls",
                "reqps",
                ((_rate("rootstock_requests_total", "outcome"), "{{outcome}}"),),
                "By outcome: ok, gone, or the code of the problem document.",
            ),
            Panel(
                "Time to answer",
                "s",
                _quantiles("rootstock_request_seconds", 'outcome="ok"'),
                "From the door in to the door out, answered calls.",
            ),
            Panel(
                "Refused before compute",
                "reqps",
                ((_or_zero(_rate("rootstock_refusals_total", "reason")), "{{reason}}"),),
            ),
            Panel(
                "Busiest tasks",
                "reqps",
                ((f"topk(10, {_rate('rootstock_requests_total', 'task')})", "{{task}}"),),
            ),
            Panel("Stages of one image", "s", _quantiles("rootstock_stage_seconds", "", "stage")),
            Panel(
                "Inside and waiting",
                "short",
                (
                    (_gauge("rootstock_in_flight"), "calls inside"),
                    (_gauge("rootstock_queue_samples"), "samples waiting for engines"),
                    (_gauge("rootstock_door_images"), "images waiting to be decoded"),
                    (_gauge("rootstock_door_samples"), "samples waiting at doors"),
                ),
            ),
        ),
    ),
    (
        "Engines",
        (
            Panel(
                "Samples computed",
                "short",
                ((_or_zero(_rate("rootstock_samples_total", "path")), "{{path}}"),),
                "Per second, by path: mixed or merged.",
            ),
            Panel("Samples in a batch", "short", _quantiles("rootstock_batch_samples")),
            Panel("Releases in a batch", "short", _quantiles("rootstock_batch_tasks")),
            Panel(
                "Groups from doors",
                "short",
                (
                    (_or_zero(_rate("rootstock_group_samples_count")), "groups a second"),
                    (_or_zero(_rate("rootstock_group_retries_total")), "sent again"),
                ),
                "Topology split alone.",
            ),
            Panel(
                "Merged tasks",
                "short",
                (
                    (_gauge("rootstock_merged_tasks", how="max"), "releases"),
                    (
                        _or_zero(_rate("rootstock_merges_total", "change", "reason")),
                        "{{change}} {{reason}}",
                    ),
                ),
            ),
            Panel(
                "Memory of merged weights",
                "bytes",
                ((_gauge("rootstock_merged_bytes", "replica"), "{{replica}}"),),
            ),
        ),
    ),
    (
        "Adapters",
        (
            Panel(
                "Adapters held",
                "short",
                (
                    (_gauge("rootstock_resident_adapters", "tier", how="max"), "{{tier}}"),
                    (_gauge("rootstock_resident_unproven", how="max"), "effect check to come"),
                ),
            ),
            Panel(
                "Bytes of adapters held",
                "bytes",
                ((_gauge("rootstock_resident_bytes", "tier", how="max"), "{{tier}}"),),
            ),
            Panel(
                "Looked for",
                "ops",
                (
                    (
                        _or_zero(_rate("rootstock_residency_lookups_total", "tier", "result")),
                        "{{tier}} {{result}}",
                    ),
                    (
                        _or_zero(_rate("rootstock_residency_evictions_total", "tier")),
                        "{{tier}} evicted",
                    ),
                ),
            ),
            Panel(
                "Loads",
                "ops",
                (
                    (_or_zero(_rate("rootstock_adapter_loads_total", "result")), "{{result}}"),
                    (_or_zero(_rate("rootstock_effect_failures_total")), "effect check failed"),
                ),
            ),
            Panel(
                "Time to load",
                "s",
                (
                    (
                        _MEAN.format("rootstock_adapter_load_seconds", who=_WHO),
                        "{{source}}",
                    ),
                ),
                "Mean since each replica's start, from fetch to verified.",
            ),
            Panel(
                "Generation",
                "short",
                (
                    (_gauge("rootstock_generation", how="max"), "newest"),
                    (_gauge("rootstock_generation", how="min"), "oldest"),
                ),
                "Last log entry applied: a gap is a replica that is behind.",
            ),
        ),
    ),
    (
        "Second looks",
        (
            Panel(
                "Looked at again",
                "ops",
                (
                    (
                        _or_zero(_rate("rootstock_second_looks_total", "path", "result")),
                        "{{path}} {{result}}",
                    ),
                    (_or_zero(_rate("rootstock_second_looks_dropped_total")), "no room"),
                    (_gauge("rootstock_second_looks_waiting"), "waiting"),
                ),
                "Answers computed a second time by the plain path.",
            ),
            Panel(
                "Distance to the plain path",
                "percentunit",
                _quantiles("rootstock_second_look_distance"),
                "As a part of what is tolerated: above 1 an answer was wrong.",
            ),
            Panel(
                "Releases taken away",
                "short",
                (
                    (_gauge("rootstock_quarantined_releases", how="max"), "no longer served"),
                    (
                        _or_zero(_rate("rootstock_second_look_seconds_total")),
                        "processors busy with second looks",
                    ),
                ),
            ),
        ),
    ),
    (
        "Fleet",
        (
            Panel(
                "Replicas",
                "short",
                (
                    (_gauge("rootstock_replicas_scraped", how="max"), "answer"),
                    (_gauge("rootstock_replicas_expected", how="max"), "should"),
                ),
                kind="stat",
            ),
            Panel(
                "Store",
                "short",
                (
                    (_gauge("rootstock_follower_unreachable"), "replicas that cannot read it"),
                    (_gauge("rootstock_follower_blocked"), "replicas stopped at an entry"),
                ),
                kind="stat",
            ),
            Panel(
                "Late event loops",
                "s",
                _quantiles("rootstock_event_loop_stall_seconds"),
                "How late a replica's loop came to what was due.",
            ),
            Panel(
                "What runs",
                "short",
                (
                    (
                        _gauge("rootstock_build_info", "version", "backbone", "dtype", "device"),
                        "{{version}} {{backbone}} {{dtype}} {{device}}",
                    ),
                ),
                kind="stat",
            ),
        ),
    ),
)


def built() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "rootstock",
        "title": "Rootstock",
        "tags": ["rootstock"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"},
                {
                    "name": "job",
                    "type": "query",
                    "label": "Release",
                    "datasource": {"type": "prometheus", "uid": "${source}"},
                    "query": "label_values(rootstock_build_info, job)",
                    "refresh": 2,
                    "includeAll": True,
                    "multi": True,
                },
            ]
        },
        "panels": list(_placed()),
    }


def _placed() -> Iterator[dict[str, Any]]:
    """Rows from top to bottom, panels from left to right."""
    number, top = 1, 0
    for title, panels in ROWS:
        where = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": title, "gridPos": where, "panels": []}
        number, top = number + 1, top + 1
        for i, panel in enumerate(panels):
            x = i * _WIDTH % _COLUMNS
            if i and x == 0:
                top += _HEIGHT
            where = {"h": _HEIGHT, "w": _WIDTH, "x": x, "y": top}
            yield {"id": number, "gridPos": where, **_panel(panel)}
            number += 1
        top += _HEIGHT


def _panel(panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.what,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend, "datasource": source}
            for i, (expr, legend) in enumerate(panel.queries)
        ],
    }
