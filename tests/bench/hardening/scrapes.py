"""A hundred scrapes at once, with publishes at full load: none hangs, and the sums are right.

python -m tests.bench.hardening.scrapes
"""

import asyncio
import collections
import tempfile
import time
from typing import Any

from adapters_store.threads import wait_passively

wait_passively()

import aiohttp  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from adapters_store import backbone as backbones  # noqa: E402
from serving.launch import Running  # noqa: E402
from tests.bench.hardening.churn import TASKS, publisher, verdict  # noqa: E402
from tests.bench.hardening.load import Load, telling  # noqa: E402
from tests.bench.hardening.probe import Table, arguments, keep, server  # noqa: E402

AT_ONCE = 100


def main() -> None:
    """Both ingresses."""
    parser = arguments("scrapes", __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    began = time.monotonic()
    backbone = backbones.load()
    made = [telling(backbone, TASKS[i % 4], i // 4 + 1, seed=i % 4) for i in range(80)]
    rows = []
    for ingress, number in (("haproxy", 2), ("python", 2)):
        with (
            tempfile.TemporaryDirectory(prefix="scrapes-") as folder,
            server(store=f"file://{folder}", ingress=ingress, replicas=number) as running,
        ):
            rows.append((f"{ingress}, {number} replicas", *_scraped(running, made, given.rounds)))
    table = Table(
        title="Concurrent scrapes under load",
        text=(
            f"{given.rounds} rounds of {AT_ONCE} scrapes of `/metrics` at once, while 8 clients in "
            "a closed loop ask for 4 tasks and releases are published one after the other. "
            "Incomplete: a scrape without some replica. Sums: predictions answered, by task, in a "
            "scrape after the load had ended, against the clients' own count."
        ),
        columns=(
            "server",
            "scrapes",
            "not 200",
            "incomplete",
            "scrape s, median",
            "slowest",
            "publishes meanwhile",
            "requests",
            "retried",
            "failed",
            "miscomputed",
            "failures said",
            "clients counted",
            "server counted",
        ),
        rows=rows,
    )
    keep(given.out, "scrapes", [table], time.monotonic() - began)


def _scraped(running: Running, made: list[bytes], rounds: int) -> tuple[Any, ...]:
    return asyncio.run(scraped(running, made, rounds))


async def scraped(running: Running, made: list[bytes], rounds: int) -> tuple[Any, ...]:
    """All rounds at one server."""
    seen: list[tuple[int, float, bool]] = []
    async with publisher(running) as by, _session() as session:
        for task, data in zip(TASKS, made, strict=False):
            await by.publish(task, data)
        by.took_ms.clear()
        load = Load(running, TASKS, by.known)
        async with load.running():
            publishing = asyncio.create_task(_publish(by, made[len(TASKS) :]))
            for _ in range(rounds):
                await asyncio.sleep(1)
                url = f"{running.url}/metrics"
                seen += await asyncio.gather(*(_scrape(session, url) for _ in range(AT_ONCE)))
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        async with session.get(f"{running.url}/metrics") as response:
            counted = _answered(await response.text())
    own = collections.Counter(h.task for h in load.hits if h.ok)
    took = sorted(s for _, s, _ in seen)
    return (
        len(seen),
        sum(status != 200 for status, _, _ in seen),
        sum(not whole for _, _, whole in seen),
        round(took[len(took) // 2], 2),
        round(took[-1], 2),
        len(by.took_ms),
        len(load.hits),
        *verdict(load.hits),
        _by_task(own),
        _by_task(counted),
    )


def _session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60))


async def _publish(by: Any, made: list[bytes]) -> None:
    for i, data in enumerate(made, len(TASKS)):
        await by.publish(TASKS[i % 4], data)


async def _scrape(session: aiohttp.ClientSession, url: str) -> tuple[int, float, bool]:
    began = time.monotonic()
    try:
        async with session.get(url) as response:
            text = await response.text()
            numbers = {
                line.split(" ")[0]: line.split(" ")[1]
                for line in text.splitlines()
                if line.startswith("rootstock_replicas_")
            }
            whole = len(set(numbers.values())) == 1 and len(numbers) == 2
            return response.status, time.monotonic() - began, whole
    except (aiohttp.ClientError, TimeoutError):
        return 0, time.monotonic() - began, False


def _answered(text: str) -> collections.Counter[str]:
    """Predictions by task, all replicas together."""
    found: collections.Counter[str] = collections.Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "rootstock_requests_total" and sample.labels["outcome"] == "ok":
                found[sample.labels["task"]] += int(sample.value)
    return found


def _by_task(counts: collections.Counter[str]) -> str:
    return f"{sum(counts.values())} = " + " + ".join(str(counts[task]) for task in TASKS)


if __name__ == "__main__":
    main()
