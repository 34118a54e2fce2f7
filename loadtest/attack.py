"""One run, from a scenario to hits: asks what there is, lets client processes load, gathers."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from loadtest import scrape
from loadtest.churn import Churner
from loadtest.crew import Crew, crew
from loadtest.discovery import task_names
from loadtest.environment import environment, published
from loadtest.hits import Hits, merged
from loadtest.images import Picture
from loadtest.images import pool as image_pool
from loadtest.learning import Learned, learn
from loadtest.plan import Plan, make_plan, seeds
from loadtest.scenario import Scenario
from loadtest.wire import Reply, ask, origin_of

_SCRAPE_S: Final = 10.0
Tick = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What runs of one scenario share, at whatever rate."""

    names: tuple[str, ...]
    pictures: tuple[Picture, ...]
    learned: Learned

    def plan(self, scenario: Scenario) -> Plan:
        """Every request of a run."""
        good = [picture.name for picture in self.pictures if picture.good]
        return make_plan(scenario, self.names, good, len(self.pictures) - len(good))


async def prepare(scenario: Scenario) -> Prepared:
    """Ask what there is, and what a calm server says.

    Raises:
        LoadtestError, OSError
    """
    names = await task_names(scenario)
    pictures = image_pool(scenario.images, seeds(scenario.seed)["drawing"])
    bare = Prepared(names, pictures, [])
    return replace(bare, learned=await learn(scenario, bare.plan(scenario), pictures))


async def attack(
    scenario: Scenario,
    *,
    prepared: Prepared | None = None,
    members: Crew | None = None,
    tick: Tick = lambda _: None,
    begun: Callable[[Plan], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> Hits:
    """Run a scenario.

    Args:
        scenario: with every header that requests are to carry.
        prepared: of an earlier run; else it is done now.
        members: client processes of an earlier run; else of this run alone.
        tick: called with what client processes count, a few times a second.
        begun: called when the first request is about to leave.
        stop: once it is set, nothing more is sent, and what there is comes back.

    Raises:
        LoadtestError: the run could not begin, or a client process died.
        OSError: a file of the scenario cannot be read.
    """
    stop = stop or asyncio.Event()
    prepared = prepared or await prepare(scenario)
    names, pictures = prepared.names, prepared.pictures
    plan = prepared.plan(scenario)
    churner = await Churner.prepared(scenario, names) if scenario.churn.any else None
    header: dict[str, Any] = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "scenario": published(scenario),
        "tasks": list(plan.names),
        "tasks_known": plan.known,
        "tasks_effective": plan.effective,
        "images": [picture.name for picture in pictures],
        "image_bytes_mean": sum(len(p.data) for p in pictures) / len(pictures),
        "planned": 0 if scenario.closed else len(plan),
        "learned": len(prepared.learned),
    }
    before = await _metrics(scenario)
    orders = [
        {"scenario": scenario.model_dump(mode="json"), "tasks": names, "learned": prepared.learned}
    ] * scenario.workers
    async with crew(tick) if members is None else nullcontext(members) as hands:
        await hands.order(orders)
        begun(plan)
        began = hands.go()
        columns, clients = await _loaded(hands, churner, began, stop)
    took_s = time.monotonic() - began
    after = await _metrics(scenario)
    header |= {
        "took_s": took_s,
        "interrupted": stop.is_set(),
        "clients": clients,
        "changes": [] if churner is None else churner.changes,
        "server": {
            "counters": scrape.counted(before, after),
            "histograms": scrape.histograms(before, after),
        },
    }
    return merged(columns, plan.tasks, plan.image, header)


async def _loaded(members: Crew, churner: Churner | None, began: float, stop: asyncio.Event) -> Any:
    """Hits of all processes; changes are made meanwhile."""
    gathering = asyncio.create_task(members.hits())
    stopping = asyncio.create_task(stop.wait())
    churning = None
    if churner is not None:
        churning = asyncio.create_task(churner.run(members.tell, began))
    try:
        await asyncio.wait({gathering, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            members.stop()
        found = await gathering
        if churning is not None and churning.done():
            await churning  # it failed: a run whose changes broke off is not what was asked for
        return found
    finally:
        if churner is not None:
            await churner.end()
        stopping.cancel()
        gathering.cancel()
        if churning is not None:
            churning.cancel()
            await asyncio.gather(churning, return_exceptions=True)


async def _metrics(scenario: Scenario) -> scrape.Samples:
    """What the server counts; nothing where it has no such page."""
    path = scenario.target.metrics
    if not path:
        return {}
    origin = origin_of(scenario.target.url)
    headers = dict(scenario.target.headers)
    reply = await ask(origin, "GET", path, headers=headers, timeout_s=_SCRAPE_S)
    if not isinstance(reply, Reply) or reply.status != 200:
        return {}
    return scrape.samples(reply.body.decode(errors="replace"))
