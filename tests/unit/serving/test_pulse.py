"""A blocked event loop shows in the metrics."""

import asyncio
import time

from serving.pulse import beat
from serving.telemetry import Telemetry


def test_what_blocks_the_loop_is_seen():
    telemetry = Telemetry(task_labels_max=1)

    async def block():
        beating = asyncio.ensure_future(beat(telemetry))
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 (it is what is to be seen)
        await asyncio.sleep(0.02)
        beating.cancel()

    asyncio.run(block())

    (family,) = [f for f in telemetry.snapshot() if f.name == "rootstock_event_loop_stall_seconds"]
    seen = {s.name.rpartition("_")[2]: s.value for s in family.samples if "le" not in s.labels}
    assert seen["count"] == 1
    assert seen["sum"] >= 0.2
