"""Figures of one system with so many tasks: what it holds, how soon it answers, what it bears."""

import asyncio
import time
from pathlib import Path
from typing import Final

from loadtest.peers.adding import another
from loadtest.peers.asking import Agreement, Asker, spread
from loadtest.peers.bench import Bench, Figures
from loadtest.peers.server import Server
from loadtest.peers.systems import Settings, System

_PAIRS: Final = 400  # of task and picture, asked to see whether answers are right


async def tried(
    bench: Bench, system: System, interpreter: Path, settings: Settings, count: int
) -> Figures:
    """One setting, briefly: right answers a second of a closed loop.

    Raises:
        PeerError: it does not serve with these.
    """
    live = bench.place.live(system.kept, count)
    with Server(system, interpreter, settings, bench.place, live) as server:
        asker = Asker(server, bench.place)
        try:
            await asker.every(bench.place.tasks(count), server.began + bench.start_s)
        finally:
            asker.close()
        start_s = time.monotonic() - server.began
        memory = server.pss_bytes()
        closed = {"kind": "closed", "clients": bench.clients}
        value = await bench.loaded(server, count, closed, bench.seconds)
    return {
        "throughput": value["rates"]["ok"],
        "start_s": start_s,
        "memory_mb": memory / 1e6,
        "wrong": sum(value["wrong"].values()),
        "failed": value["failed"],
    }


async def measured(
    bench: Bench,
    system: System,
    interpreter: Path,
    settings: Settings,
    count: int,
    *,
    whole: bool,
    checked: bool,
) -> Figures:
    """Everything about a system with so many tasks.

    Args:
        bench: what it is measured with.
        system: which.
        interpreter: of its environment.
        settings: those that it was best with.
        count: of tasks.
        whole: at the common rates as well, and with a task being added.
        checked: hold some hundreds of answers to the truth.

    Raises:
        PeerError: it does not serve so many.
    """
    place = bench.place
    live = place.live(system.kept, count)
    server = Server(system, interpreter, settings, place, live)
    try:
        asker = Asker(server, place)
        try:
            await asker.every(place.tasks(count), server.began + bench.start_s)
            found: Figures = {"start_s": time.monotonic() - server.began}
            found["memory_mb"] = server.pss_bytes() / 1e6
            if checked:
                pairs = spread(place, place.tasks(count), _PAIRS)
                found |= _agreed(await asker.agreement(pairs))
        finally:
            asker.close()
        closed = {"kind": "closed", "clients": bench.clients}
        value = await bench.loaded(server, count, closed, bench.seconds)
        found |= {
            "throughput": value["rates"]["ok"],
            "wrong": sum(value["wrong"].values()),
            "failed": value["failed"],
            "loaded_memory_mb": server.pss_bytes() / 1e6,
        }
        if whole:
            for name, rate in zip(("", "_high"), bench.rates, strict=True):
                open_loop = {"kind": "poisson", "rate": rate}
                value = await bench.loaded(server, count, open_loop, bench.seconds)
                found |= _at_rate(value, name)
                await _calm(server, bench)
            server, added = await another(bench, server, count)
            found |= added
        return found
    finally:
        await asyncio.to_thread(server.stop)


def _agreed(agreement: Agreement) -> Figures:
    return {
        "agreement": agreement.share,
        "asked": agreement.asked,
        "dtypes": list(agreement.dtypes),
    }


def _at_rate(value: Figures, name: str) -> Figures:
    """What a report says of an open loop."""
    return {
        f"offered{name}": value["rates"]["offered"],
        f"p50_ms{name}": value["latency_ms"].get("p50"),
        f"p99_ms{name}": value["latency_ms"].get("p99"),
        f"goodput{name}": value["rates"]["goodput"],
        f"failed{name}": value["failed"],
        f"client_late{name}": not value["valid"],
    }


async def _calm(server: Server, bench: Bench) -> None:
    """Until a lone request is answered as soon as the SLO wants: a backlog is nobody else's."""
    asker = Asker(server, bench.place)
    task = bench.place.names[0]
    deadline = time.monotonic() + 30.0
    try:
        while time.monotonic() < deadline:
            began = time.monotonic()
            await asker.until_right(task, deadline)
            if time.monotonic() - began < bench.slo_ms / 1000.0:
                return
    finally:
        asker.close()
