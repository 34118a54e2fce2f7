"""Prometheus text, read before and after a run: what changed between. Pure.

Knows the text format as far as samples go; names are whatever the server calls them.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]

_LINE: Final = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$")
_LABEL: Final = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')


def samples(text: str) -> Samples:
    """Of a page of metrics; lines that are no samples are passed over."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if match := _LINE.match(line.strip()):
            name, labels, value = match.groups()
            try:
                number = float(value)
            except ValueError:
                continue
            found[name, tuple(sorted(_LABEL.findall(labels or "")))] = number
    return found


def counted(before: Samples, after: Samples) -> dict[str, dict[str, float]]:
    """How far each counter `…_total` went, over all replicas: name → labels → number."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (name, labels), value in after.items():
        if name.endswith("_total"):
            change = value - before.get((name, labels), 0.0)
            if change > 0:
                found[name][_shown(labels)] += change
    return {name: dict(by) for name, by in sorted(found.items())}


def histograms(before: Samples, after: Samples) -> dict[str, dict[str, dict[str, Any]]]:
    """Count, mean, and bounds of p50 and p99 of what histograms took in: name → labels → these."""
    buckets: dict[tuple[str, str], dict[float, float]] = defaultdict(lambda: defaultdict(float))
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for (name, labels), value in after.items():
        change = value - before.get((name, labels), 0.0)
        if name.endswith("_bucket") and (edge := _edge(labels)) is not None:
            rest = tuple(pair for pair in labels if pair[0] != "le")
            buckets[name.removesuffix("_bucket"), _shown(rest)][edge] += change
        elif name.endswith("_sum"):
            sums[name.removesuffix("_sum"), _shown(labels)] += change
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for (name, labels_shown), by_edge in sorted(buckets.items()):
        edges = sorted(by_edge)
        count = by_edge[edges[-1]]
        if count > 0:
            found[name][labels_shown] = {
                "count": count,
                "mean": sums[name, labels_shown] / count,
                "p50_at_most": _bound(by_edge, edges, 0.5 * count),
                "p99_at_most": _bound(by_edge, edges, 0.99 * count),
            }
    return dict(found)


def _edge(labels: tuple[tuple[str, str], ...]) -> float | None:
    """Of a bucket; None where a name only looks like one's."""
    try:
        return float(dict(labels)["le"])
    except (KeyError, ValueError):
        return None


def _bound(by_edge: Mapping[float, float], edges: list[float], wanted: float) -> float | None:
    """The first edge that has so many below; None beyond the last."""
    edge = next((edge for edge in edges if by_edge[edge] >= wanted), math.inf)
    return None if math.isinf(edge) else edge


def _shown(labels: tuple[tuple[str, str], ...]) -> str:
    """Without the replica: what replicas did is added up."""
    return ",".join(f"{name}={value}" for name, value in labels if name != "replica")
