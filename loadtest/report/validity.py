"""Whether a run says something about the server, or about the client that measured it. Pure."""

from collections.abc import Mapping
from typing import Any, Final

LAG_SHARE: Final = 0.1  # of the SLO, at p99
LAG_MS_MIN: Final = 2.0  # timers tell milliseconds apart, no less
CPU_MAX: Final = 0.85
UNSENT_MAX: Final = 0.001


def faults(report: Mapping[str, Any]) -> list[str]:
    """Why the run is invalid; empty where it is not."""
    found = []
    if not report["hits"]:
        return ["nothing was measured"]
    busiest = max((client["cpu"] for client in report["clients"]), default=0.0)
    if busiest > CPU_MAX:
        found.append(
            f"a client process used {busiest:.0%} of a core (at most {CPU_MAX:.0%}): "
            "use more workers, or a lower rate"
        )
    if report["mode"] == "closed":
        return found
    allowed = max(LAG_SHARE * report["slo_ms"], LAG_MS_MIN)
    lag = report["lag_ms"].get("p99", 0.0)
    if lag > allowed:
        found.append(
            f"requests left {lag:.1f} ms late at p99 (at most {allowed:.1f} ms): "
            "the client fell behind its schedule"
        )
    unsent = report["outcomes"].get("unsent", 0)
    if unsent > UNSENT_MAX * report["hits"]:
        found.append(f"{unsent} of {report['hits']} requests were never sent")
    if report["unaccounted"]:
        found.append(f"of {report['unaccounted']} requests it is not known what became of them")
    return found
