"""What blocks one call blocks no look at how a replica is."""

import asyncio
import threading

from serving.calls import CALLS, QUICK
from serving.lanes import SLOW, Lanes


def test_calls_that_wait_hold_up_no_look():
    gate, begun = threading.Event(), threading.Semaphore(0)

    def load() -> str:
        begun.release()
        assert gate.wait(30)
        return "loaded"

    async def ask():
        lanes = Lanes()
        slow = [asyncio.ensure_future(lanes.aside(load)) for _ in range(2 * SLOW)]
        for _ in range(SLOW):
            await asyncio.to_thread(begun.acquire)

        looks = await asyncio.gather(*(lanes.look(lambda: "seen") for _ in range(20)))

        assert set(looks) == {"seen"}
        assert not any(one.done() for one in slow)
        gate.set()
        assert set(await asyncio.gather(*slow)) == {"loaded"}
        lanes.close()

    asyncio.run(ask())


def test_what_is_asked_by_probes_and_scrapes_only_looks():
    assert {"status", "metrics"} <= QUICK < set(CALLS)
    assert not {"load", "unload", "catch_up"} & QUICK
