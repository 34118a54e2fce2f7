"""Waits until a server that was pressed is itself again."""

import asyncio
import time
from typing import Final

from loadtest.outcomes import Outcome
from loadtest.plan import Plan
from loadtest.scenario import Scenario
from loadtest.targets.protocol import Target
from loadtest.wire import Pool, Reply, origin_of

_IN_A_ROW: Final = 5
_PAUSE_S: Final = 0.05


async def calmed(
    scenario: Scenario, plan: Plan, target: Target, stop: asyncio.Event
) -> float | None:
    """Seconds until some answers in a row came within the SLO; None when it lasts too long.

    Requests are those of the plan, one after another; a plan without any asks for nothing.
    """
    answers: asyncio.Queue[Reply | Outcome] = asyncio.Queue()
    timeout_s = max(scenario.saturate.settle_s, 0.1)
    pool = Pool(
        origin_of(scenario.target.url), timeout_s, lambda _, reply: answers.put_nowait(reply)
    )
    began = time.monotonic()
    good = 0
    try:
        for row in range(len(plan)):
            sent = time.monotonic()
            pool.send(row, target.request(plan.tasks[row].tolist(), int(plan.image[row]), 0.0, 0))
            reply = await answers.get()
            took_ms = 1000.0 * (time.monotonic() - sent)
            well = isinstance(reply, Reply) and reply.status < 500
            good = good + 1 if well and took_ms <= scenario.slo.latency_ms else 0
            if good == _IN_A_ROW:
                return time.monotonic() - began
            if time.monotonic() - began > timeout_s or stop.is_set():
                return None
            await asyncio.sleep(0.0 if good else _PAUSE_S)
    finally:
        pool.close()
    return time.monotonic() - began
