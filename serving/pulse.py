"""How late an event loop comes to what is due: whatever blocks it, blocks every call. No policy."""

import asyncio
from typing import Final, NoReturn

from serving.telemetry import Telemetry

_BEAT_S: Final = 0.1


async def beat(telemetry: Telemetry) -> NoReturn:
    """Sleep, and note by how much it was too long; until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _BEAT_S
        await asyncio.sleep(_BEAT_S)
        telemetry.observe("rootstock_event_loop_stall_seconds", max(0.0, loop.time() - due))
