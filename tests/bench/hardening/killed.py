"""A replica is killed under load: whom it costs, and when its replacement answers.

python -m tests.bench.hardening.killed
"""

import asyncio
import itertools
import os
import signal
import tempfile
import time
from typing import Any

from adapters_store.threads import wait_passively

wait_passively()

import aiohttp  # noqa: E402

from adapters_store import backbone as backbones  # noqa: E402
from serving.launch import Running  # noqa: E402
from tests.bench.hardening.churn import TASKS, publisher, verdict  # noqa: E402
from tests.bench.hardening.load import Load, telling  # noqa: E402
from tests.bench.hardening.probe import Table, arguments, keep, replicas, server  # noqa: E402

WATCH_S = 90.0


def main() -> None:
    """Several kills of one of two replicas; then the only one."""
    parser = arguments("killed", __doc__)
    parser.add_argument("--kills", type=int, default=5)
    given = parser.parse_args()
    began = time.monotonic()
    made = {task: telling(backbones.load(), task, 1) for task in TASKS}
    rows = []
    for number, kills in ((2, given.kills), (1, 1)):
        with (
            tempfile.TemporaryDirectory(prefix="killed-") as folder,
            server(store=f"file://{folder}", replicas=number) as running,
        ):
            rows += [
                (f"one of {number}", f"{kill + 1}", *asyncio.run(killed(running, made)))
                for kill in range(kills)
            ]
    table = Table(
        title="A replica killed under load",
        text=(
            "HAProxy ingress; 8 clients in a closed loop, each request tried once more 0.1 s "
            "after a 5xx or a closed connection. `kill -9` of one replica's process; watched "
            "until the replacement answered a prediction of its own. Longest silence: between "
            "two answers of whichever replica."
        ),
        columns=(
            "killed",
            "kill",
            "requests",
            "retried",
            "failed after the retry",
            "miscomputed",
            "failures said",
            "longest silence s",
            "replacement answers after s",
        ),
        rows=rows,
    )
    keep(given.out, "killed", [table], time.monotonic() - began)


async def killed(running: Running, made: dict[str, bytes]) -> tuple[Any, ...]:
    """One kill; the server has all its replicas again at the end."""
    async with publisher(running) as by:
        for task, data in made.items():
            await by.publish(task, data)
        load = Load(running, TASKS, by.known)
        async with load.running():
            await asyncio.sleep(3)
            before = await _answering(running, set())
            os.kill(replicas(running)[0], signal.SIGKILL)
            died = time.monotonic()
            replaced = 0.0
            while not replaced and time.monotonic() < died + WATCH_S:
                await asyncio.sleep(0.1)
                if await _answering(running, before) - before:
                    replaced = time.monotonic() - died
            await asyncio.sleep(3)
    answered = sorted(h.done for h in load.hits if h.ok and h.done > died - 1)
    silence = max(b - a for a, b in itertools.pairwise(answered))
    return (len(load.hits), *verdict(load.hits), round(silence, 1), round(replaced, 1))


async def _answering(running: Running, known: set[str]) -> set[str]:
    """Replicas that have answered predictions, by a scrape of everybody's metrics."""
    timeout = aiohttp.ClientTimeout(total=5)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{running.url}/metrics") as response,
        ):
            lines = (await response.text()).splitlines()
    except (aiohttp.ClientError, TimeoutError):
        return known
    return {
        line.partition('replica="')[2].partition('"')[0]
        for line in lines
        if line.startswith("rootstock_requests_total{") and 'outcome="ok"' in line
    }


if __name__ == "__main__":
    main()
