"""Rows leave at their instants, and none before the start."""

import asyncio
import time

import numpy as np

from loadtest.judge import Judge
from loadtest.outcomes import Outcome
from loadtest.pacer import Pacer
from loadtest.plan import make_plan
from loadtest.targets.table import target as made
from loadtest.wire import origin_of
from tests.known_server import Behaviour, KnownServer
from tests.unit.loadtest.conftest import make_scenario
from tests.unit.loadtest.test_judge import PICTURES

EARLY_S = 0.02


def paced(url, run, names=("a", "b", "c")):
    """The columns of one client process on timers that go off early."""

    async def main():
        loop = asyncio.get_running_loop()
        call_later = loop.call_later
        loop.call_later = lambda delay, *what: call_later(max(delay - EARLY_S, 0.0), *what)
        arrivals = {"kind": "constant", "rate": 50}
        scenario = make_scenario(target={"url": url}, arrivals=arrivals, duration_s=0.4)
        images = [picture.name for picture in PICTURES]
        plan = make_plan(scenario, names, images, 0)
        target = made(scenario.target, plan.names, PICTURES)
        judge = Judge(scenario.checks, target, plan.names, images, {})
        pacer = Pacer(
            plan, target, judge, origin_of(url), number=0, of=1, in_flight_max=9, timeout_s=9.0
        )
        await run(pacer, time.monotonic() + 0.1)
        pacer.pool.close()
        return pacer, pacer.recorder.columns()

    return asyncio.run(main())


def test_no_client_of_a_closed_loop_sends_before_the_start():
    """What was scheduled before it would be missing from the figures, as if it were warm-up."""
    with KnownServer() as server:
        _, found = paced(server.url, lambda pacer, at: pacer.run_closed(at, 0.1, 3, 0.0))

    assert found["scheduled"].min() >= 0.0
    assert (found["sent"] >= found["scheduled"]).all()
    assert len(found["row"]) == len(server.predictions) >= 3


def test_no_row_of_a_plan_leaves_before_its_instant():
    with KnownServer() as server:
        _, found = paced(server.url, lambda pacer, at: pacer.run_open(at, 0.4))

    assert len(found["row"]) == 20
    assert (found["sent"] >= found["scheduled"]).all()


def test_a_client_that_waits_for_late_answers_does_not_look_idle():
    """A quarter of a second of work, and then a server that never answers."""
    shares = []

    async def busy(pacer, start):
        spent, began = time.process_time(), time.monotonic()
        pacer._loop.call_later(0.12, lambda: spin(0.25))
        running = asyncio.ensure_future(pacer.run_open(start, 0.4))
        await pacer._sent_all.wait()
        await asyncio.sleep(0.8)  # this waiting is what is not to count
        pacer.pool.abandon()
        await running
        shares.append((time.process_time() - spent) / (time.monotonic() - began))

    def spin(seconds):
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    with KnownServer(Behaviour(silent=True)) as server:
        pacer, found = paced(server.url, busy)

    assert pacer.cpu > 1.1 * shares[0]
    assert np.isin(found["outcome"], [Outcome.ABANDONED, Outcome.DROPPED]).all()
