"""What each task got, and whether all got the same. Pure."""

from typing import Any, Final

import numpy as np

from loadtest.hits import Hits
from loadtest.outcomes import FAILED, Outcome
from loadtest.popularity import effective
from loadtest.statistics import jain, percentiles

_ROWS_MAX: Final = 200
_FEW: Final = 5  # of a task with fewer requests nothing is said about fairness


def by_task(hits: Hits, slo_ms: float) -> dict[str, Any]:
    """Fairness over tasks, and a row for each of the busiest.

    A request for several tasks counts for each of them. Jain's index is of the share of a task's
    requests that were answered well, so a task is not treated badly by being asked for rarely.
    """
    known: int = hits.header["tasks_known"]
    names: list[str] = hits.header["tasks"]
    width = hits["tasks"].shape[1] if len(hits) else 1
    task = hits["tasks"].ravel()
    row = np.repeat(np.arange(len(hits)), width)
    row, task = row[task < known], task[task < known]
    outcome = hits["outcome"]
    latency = 1000.0 * (hits["done"] - hits["scheduled"])
    right = outcome == Outcome.OK
    good = right & (latency <= slo_ms)
    failed = np.isin(outcome, list(FAILED))
    asked = np.bincount(task, minlength=known)
    counts = {
        "ok": np.bincount(task[right[row]], minlength=known),
        "good": np.bincount(task[good[row]], minlength=known),
        "failed": np.bincount(task[failed[row]], minlength=known),
    }
    enough = asked >= _FEW
    shares = counts["good"][enough] / asked[enough]
    order = np.argsort(task, kind="stable")
    edges = np.searchsorted(task[order], np.arange(known + 1))
    rows = []
    for i in np.argsort(-asked, kind="stable")[:_ROWS_MAX]:
        if not asked[i]:
            break
        mine = row[order[edges[i] : edges[i + 1]]]
        p50, p99 = percentiles(latency[mine][right[mine]], (50.0, 99.0))
        rows.append(
            {
                "task": names[i],
                "asked": int(asked[i]),
                **{name: int(column[i]) for name, column in counts.items()},
                "p50_ms": p50,
                "p99_ms": p99,
            }
        )
    return {
        "known": known,
        "asked": int((asked > 0).sum()),
        "effective_planned": float(hits.header["tasks_effective"]),
        "effective_seen": effective(asked / max(asked.sum(), 1)),
        "jain": jain(shares),
        "worst_attainment": float(shares.min()) if len(shares) else float("nan"),
        "rows": rows,
    }
