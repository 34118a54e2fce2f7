"""What a run has to reach so that CI goes on: figures by name, and whether they do. Pure."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from loadtest.errors import ScenarioError

Figure = Callable[[Mapping[str, Any]], float | None]

# Those of the first table are at most what the limit says, those of the second at least.
AT_MOST: Final[Mapping[str, Figure]] = {
    **{
        f"p{q}_ms": (lambda r, q=q: r["latency_ms"].get(f"p{q}"))  # type: ignore[misc]
        for q in ("50", "90", "95", "99", "99.9")
    },
    "max_ms": lambda r: r["latency_ms"].get("max"),
    "failed_share": lambda r: r["failed_share"],
    "wrong": lambda r: float(sum(r["wrong"].values())),
    "dropped": lambda r: float(r["outcomes"].get("dropped", 0)),
    "changes_refused": lambda r: float(r["changes_refused"]),
}
AT_LEAST: Final[Mapping[str, Figure]] = {
    "goodput": lambda r: r["rates"]["goodput"],
    "attainment": lambda r: r["attainment"],
    "jain": lambda r: r["tasks"]["jain"],
}


def check_names(limits: Mapping[str, float]) -> None:
    """See that all are known.

    Raises:
        ScenarioError: some are not, or their limit is no number.
    """
    if unknown := sorted(limits.keys() - AT_MOST.keys() - AT_LEAST.keys()):
        known = ", ".join((*AT_MOST, *AT_LEAST))
        fault = f"no figure {', '.join(unknown)}; there are {known}"
        raise ScenarioError("slo.limits", (fault,))
    if nonsense := sorted(name for name, limit in limits.items() if not math.isfinite(limit)):
        raise ScenarioError("slo.limits", (f"no number for {', '.join(nonsense)}",))


def missed(report: Mapping[str, Any], limits: Mapping[str, float]) -> list[str]:
    """One line for each limit that was not kept; what is not known was not."""
    found = []
    for name, limit in limits.items():
        most = name in AT_MOST
        value = (AT_MOST if most else AT_LEAST)[name](report)
        kept = value is not None and (value <= limit if most else value >= limit)
        if not kept:
            shown = "not known" if value is None else f"{value:.6g}"
            found.append(f"{name} is {shown}, the limit is {limit:g}")
    return found
