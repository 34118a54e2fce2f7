"""Another task for a server under load: how long until it is answered, and what that costs.

Rootstock is sent the artifact; where tasks are loaded when they are asked for, the file is put
there; where they are read at the start, that is another start on the same port.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

from loadtest.attack import attack
from loadtest.discovery import words
from loadtest.outcomes import Outcome
from loadtest.peers.asking import Asker
from loadtest.peers.bench import WARM_S, Bench, Figures
from loadtest.peers.errors import PeerError
from loadtest.peers.server import Server
from loadtest.report.summary import report
from loadtest.wire import Reply, ask, origin_of

_ADD_S: Final = 180.0  # for another task at most
_BESIDE_S: Final = 1.0  # of load before and after a task is added


async def another(bench: Bench, server: Server, count: int) -> tuple[Server, Figures]:
    """Add a task under load; the server that then runs, and how long and at what cost.

    Raises:
        PeerError: the task is not answered in time.
    """
    stop, begun = asyncio.Event(), asyncio.Event()
    arrivals = {"kind": "poisson", "rate": bench.rates[0]}
    scenario = bench.seen(server, count, arrivals, _ADD_S + 60)
    loading = asyncio.create_task(
        attack(scenario, members=bench.members, stop=stop, begun=lambda _: begun.set())
    )
    try:
        await asyncio.wait(
            {loading, asyncio.create_task(begun.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        await asyncio.sleep(WARM_S + _BESIDE_S)
        began = time.monotonic()
        server = await _grown(bench, server)
        asker = Asker(server, bench.place)
        try:
            await asker.until_right(bench.place.spare, began + _ADD_S)
        finally:
            asker.close()
        took_s = time.monotonic() - began
        await asyncio.sleep(_BESIDE_S)
    except BaseException:
        with suppress(PeerError):
            await asyncio.to_thread(server.stop)
        raise
    finally:
        stop.set()
        hits = await loading
    value = report(hits)
    return server, {
        "add_s": took_s,
        "add_failed": value["failed"],
        "add_sent": sum(
            n for name, n in value["outcomes"].items() if Outcome[name.upper()] != Outcome.ABANDONED
        ),
    }


async def _grown(bench: Bench, server: Server) -> Server:
    """What the system's documentation has for another task; the server that then runs."""
    place, system = bench.place, server.system
    if system.grows == "publish":
        await _publish(server, place.source("store", place.spare).read_bytes(), place.spare)
        return server
    place.add(system.kept, server.live, place.spare)
    if system.grows == "restart":
        return await asyncio.to_thread(server.again)
    return server


async def _publish(server: Server, data: bytes, task: str) -> None:
    origin, headers = origin_of(server.url), {"Content-Type": "application/octet-stream"}
    reply = await ask(origin, "PUT", f"/v1/tasks/{task}", headers=headers, body=data)
    if not isinstance(reply, Reply) or reply.status != 201:
        said = words(reply) if isinstance(reply, Reply) else reply.name.lower()
        raise PeerError(server.system.name, f"publishing failed: {said}")
