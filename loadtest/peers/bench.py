"""The loads that every system gets: the same pictures, tasks, clients and rates.

One client process of the load tester sends, and shares the cores with every system alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from loadtest.attack import attack
from loadtest.crew import Crew
from loadtest.peers.asking import asked_of
from loadtest.peers.server import Server
from loadtest.peers.workplace import Workplace
from loadtest.report.summary import report
from loadtest.scenario import Scenario

Figures = dict[str, Any]

WARM_S: Final = 1.5  # of every load, not counted


@dataclass(frozen=True, slots=True)
class Bench:
    """What every figure is taken with."""

    place: Workplace
    members: Crew
    seconds: float  # of a load
    clients: int  # of a closed loop
    slo_ms: float
    start_s: float  # for a server to answer for every task
    rates: tuple[float, float]  # requests a second, the same for all; zero: not yet known

    def seen(self, server: Server, count: int, arrivals: Mapping[str, Any], seconds: float) -> Any:
        """A scenario over the first so many tasks."""
        value = {
            "name": server.system.name,
            "seed": 5,
            "duration_s": seconds + WARM_S,
            "warmup_s": WARM_S,
            "in_flight_max": 4096,
            "timeout_s": 30,
            "target": asked_of(server).model_dump(),
            "arrivals": arrivals,
            "tasks": {"names": self.place.tasks(count)},
            "images": self.place.images.model_dump(),
            "checks": {"labels": "file", "file": str(self.place.folder / "truth.json")},
            "slo": {"latency_ms": self.slo_ms},
        }
        return Scenario.model_validate(value)

    async def loaded(
        self, server: Server, count: int, arrivals: Mapping[str, Any], seconds: float
    ) -> Figures:
        """The report of a load."""
        scenario = self.seen(server, count, arrivals, seconds)
        return report(await attack(scenario, members=self.members))
