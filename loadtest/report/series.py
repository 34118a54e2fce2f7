"""What happened second by second. Pure."""

from itertools import pairwise
from typing import Any, Final

import numpy as np

from loadtest.hits import Hits
from loadtest.outcomes import FAILED, Outcome
from loadtest.statistics import percentiles

_POINTS_MAX: Final = 600


def series(hits: Hits, begin: float, end: float, slo_ms: float) -> dict[str, Any]:
    """Columns by interval of scheduled instants; intervals grow so that there are not too many."""
    width = max(1.0, float(np.ceil((end - begin) / _POINTS_MAX)))
    count = max(int(np.ceil((end - begin) / width - 1e-9)), 1)
    place = np.clip(((hits["scheduled"] - begin) / width).astype(np.int64), 0, count - 1)
    # The last interval may be short: rates are by its own length.
    lengths = np.full(count, width)
    lengths[-1] = max(end - begin - width * (count - 1), 1e-9)
    outcome = hits["outcome"]
    right = outcome == Outcome.OK
    latency = 1000.0 * (hits["done"] - hits["scheduled"])
    good = right & (latency <= slo_ms)

    def rate(chosen: np.ndarray[Any, Any]) -> list[float]:
        return [float(x) for x in np.bincount(place[chosen], minlength=count) / lengths]

    order = np.argsort(place[right], kind="stable")
    edges = np.searchsorted(place[right][order], np.arange(count + 1))
    ordered = latency[right][order]
    rows = [percentiles(ordered[a:b], (50.0, 95.0, 99.0)) for a, b in pairwise(edges)]
    p50, p95, p99 = zip(*rows, strict=True)
    return {
        "width_s": width,
        "at_s": [begin + width * i for i in range(count)],
        "offered": rate(np.ones(len(hits), bool)),
        "ok": rate(right),
        "goodput": rate(good),
        "failed": rate(np.isin(outcome, list(FAILED))),
        "p50_ms": list(p50),
        "p95_ms": list(p95),
        "p99_ms": list(p99),
    }
