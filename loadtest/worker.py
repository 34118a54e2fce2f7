"""One client process: takes orders on stdin, sends its share of each load, writes its hits.

Started by `crew` as `python -m loadtest.worker`; speaks lines of JSON with it. Its stdin's end is
an order to stop.
"""

import asyncio
import contextlib
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from loadtest.images import pool as image_pool
from loadtest.judge import Judge
from loadtest.pacer import Pacer, dealt
from loadtest.plan import make_plan, seeds
from loadtest.scenario import Closed, Scenario
from loadtest.targets.table import target as make_target
from loadtest.wire import origin_of

_LINE_BYTES_MAX: Final = 1 << 28
_TICK_S: Final = 0.25
_SHOWN_MAX: Final = 400  # latencies of a tick that are told
_GRACE_S: Final = 2.0  # for what is in flight when a run is broken off
_WARM_MAX: Final = 32  # connections that are opened before the start
_GARBAGE: Final = 50_000


async def work() -> None:
    """One load after another, until there are no more orders."""
    lines = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unexpected)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        order = json.loads(line)
        if "scenario" in order:  # else it came too late for the load before
            await _obey(order, lines)


def _unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A fault of ours in a callback would lose a hit: a run without all its hits is none."""
    loop.default_exception_handler(context)
    if not isinstance(context.get("exception"), OSError | None):
        sys.stderr.flush()
        os._exit(1)


async def _obey(order: dict[str, Any], lines: asyncio.StreamReader) -> None:
    """From an order to its hits."""
    scenario = Scenario.model_validate(order["scenario"])
    number, of = order["number"], scenario.workers
    pictures = image_pool(scenario.images, seeds(scenario.seed)["drawing"])
    good = [picture.name for picture in pictures if picture.good]
    plan = make_plan(scenario, order["tasks"], good, len(pictures) - len(good))
    target = make_target(scenario.target, plan.names, pictures)
    learned = {(key, image): (label, margin) for key, image, label, margin in order["learned"]}
    names = [picture.name for picture in pictures]
    judge = Judge(scenario.checks, target, plan.names, names, learned)
    pacer = Pacer(
        plan,
        target,
        judge,
        origin_of(scenario.target.url),
        number=number,
        of=of,
        in_flight_max=dealt(scenario.in_flight_max, number, of),
        timeout_s=scenario.timeout_s,
    )
    rate = len(plan) / scenario.duration_s / of
    await pacer.pool.warm(int(min(_WARM_MAX, max(1.0, rate / 20))))
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE, 20, 100)
    _say(kind="ready")
    told = json.loads(await lines.readline() or '{"do": "stop"}')
    if told["do"] != "go":
        pacer.stop()
        told["start"] = time.monotonic()
    await _load(pacer, scenario, lines, number, told["start"], Path(order["out"]))


async def _load(
    pacer: Pacer,
    scenario: Scenario,
    lines: asyncio.StreamReader,
    number: int,
    start: float,
    out: Path,
) -> None:
    arrivals = scenario.arrivals
    listening = asyncio.create_task(_listen(pacer, lines))
    ticking = asyncio.create_task(_tick(pacer))
    if isinstance(arrivals, Closed):
        clients = dealt(arrivals.clients, number, scenario.workers)
        running = pacer.run_closed(start, scenario.duration_s, clients, arrivals.think_s)
    else:
        running = pacer.run_open(start, scenario.duration_s)
    await running
    for task in (listening, ticking):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    _say_tick(pacer)
    pacer.pool.close()
    with out.open("wb") as handle:
        columns: dict[str, Any] = dict(pacer.recorder.columns())
        np.savez(handle, **columns)
    _say(kind="done", cpu=pacer.cpu, connections=pacer.pool.opened)


async def _listen(pacer: Pacer, lines: asyncio.StreamReader) -> None:
    while line := await lines.readline():
        told = json.loads(line)
        if told["do"] == "tell":
            pacer.promise(told["task"], told["allowed"], told["generation"])
            _say(kind="heard", id=told["id"])
        else:
            break
    pacer.stop()
    await asyncio.sleep(_GRACE_S)
    pacer.pool.abandon()


async def _tick(pacer: Pacer) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        _say_tick(pacer)


def _say_tick(pacer: Pacer) -> None:
    tally = pacer.fresh_tally()
    step = max(len(tally.latencies_ms) // _SHOWN_MAX, 1)
    _say(
        kind="tick",
        sent=tally.sent,
        outcomes={int(outcome): count for outcome, count in tally.outcomes.items()},
        in_flight=pacer.pool.in_flight,
        lag_ms=round(tally.lag_ms, 3),
        latencies_ms=[round(value, 2) for value in tally.latencies_ms[::step]],
    )


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(work())
