"""Releases come and go under load: nothing fails, nothing is stale, memory stays.

python -m tests.bench.hardening.churn
"""

import asyncio
import collections
import random
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from adapters_store.threads import wait_passively

wait_passively()

import aiohttp  # noqa: E402

from adapters_store import backbone as backbones  # noqa: E402
from adapters_store.backbone import Backbone  # noqa: E402
from serving.launch import Running  # noqa: E402
from tests.bench.hardening.load import Hit, Known, Load, quantile_ms, telling  # noqa: E402
from tests.bench.hardening.probe import (  # noqa: E402
    Table,
    arguments,
    keep,
    memory_mib,
    replicas,
    server,
)

TASKS = [f"task-{i}" for i in range(4)]
SAMPLE_S = 0.25
ROUNDS = 20


def main() -> None:
    """Each ingress and number of replicas: one row of each table."""
    parser = arguments("churn", __doc__)
    parser.add_argument("--publishes", type=int, default=200)
    given = parser.parse_args()
    began = time.monotonic()
    backbone = backbones.load()
    count = given.publishes
    made = [telling(backbone, TASKS[i % 4], i // 4 + 1, seed=i % 4) for i in range(count)]
    published: list[tuple[Any, ...]] = []
    changed: list[tuple[Any, ...]] = []
    for ingress, number in (("haproxy", 2), ("haproxy", 1), ("python", 1)):
        name = f"{ingress}, {number} replica" + "s" * (number > 1)
        with (
            tempfile.TemporaryDirectory(prefix="churn-") as folder,
            server(store=f"file://{folder}", ingress=ingress, replicas=number) as running,
        ):
            published.append((name, *asyncio.run(publishes(running, made))))
            changed.append((name, *asyncio.run(changes(running, backbone))))
    keep(given.out, "churn", tables(count, published, changed), time.monotonic() - began)


class Publisher:
    """Changes releases over HTTP, and remembers what their answers said."""

    def __init__(self, session: aiohttp.ClientSession, url: str, known: Known) -> None:
        self._session, self._url, self.known = session, url, known
        self.took_ms: list[float] = []

    async def publish(self, task: str, data: bytes) -> None:
        """Publish and let it answer."""
        answer = await self._call("PUT", f"/v1/tasks/{task}", data=data)
        self.known.release[task] = answer["release"]

    async def change(self, task: str, action: str, body: dict[str, Any]) -> None:
        """Activate, alias or split."""
        await self._call("POST", f"/v1/tasks/{task}:{action}", json=body)

    async def retire(self, task: str) -> None:
        """Take a whole task away."""
        await self._call("DELETE", f"/v1/tasks/{task}")

    async def _call(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        began = time.monotonic()
        async with self._session.request(method, self._url + path, **what) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
            if response.status not in (200, 201):
                raise RuntimeError(f"{method} {path}: {response.status} {answer}")
        self.took_ms.append(1000 * (time.monotonic() - began))
        self.known.generation = answer["generation"]
        return answer


@asynccontextmanager
async def publisher(running: Running) -> AsyncIterator[Publisher]:
    """A publisher with nothing known."""
    async with aiohttp.ClientSession() as session:
        yield Publisher(session, running.url, Known())


async def publishes(running: Running, made: list[bytes]) -> tuple[Any, ...]:
    """All releases, one after the other, while eight clients send as fast as they are answered."""
    memory: list[float] = []
    async with publisher(running) as by:
        for task, data in zip(TASKS, made, strict=False):
            await by.publish(task, data)
        by.took_ms.clear()
        load = Load(running, TASKS, by.known, demand=lambda dice: dice.random() < 0.5)
        async with load.running():
            await asyncio.sleep(3)  # buffers and pools of a server that has just come up
            sampling = asyncio.create_task(_sample(replicas(running), memory))
            for i, data in enumerate(made[len(TASKS) :], len(TASKS)):
                await by.publish(TASKS[i % 4], data)
            sampling.cancel()
    tenth = max(len(memory) // 10, 1)
    first, last = (sum(part) / len(part) for part in (memory[:tenth], memory[-tenth:]))
    took = sorted(by.took_ms)
    demanded = [h for h in load.hits if h.wanted]
    return (
        len(load.hits),
        *verdict(load.hits),
        sum(h.stale for h in demanded),
        sum(h.stale for h in load.hits if not h.wanted),
        round(took[len(took) // 2]),
        round(quantile_ms(load.hits, 0.5)),
        round(quantile_ms(load.hits, 0.99)),
        f"{first:.0f} → {last:.0f}",
    )


async def changes(running: Running, backbone: Backbone) -> tuple[Any, ...]:
    """Rollbacks, aliases, splits, and a task that is retired and comes back, under the same load.

    The clients ask for tasks that stay, by name and by alias; any answer but a prediction counts.
    """
    dice = random.Random(0)
    async with publisher(running) as by:
        newest = {}
        for task in TASKS:
            async with aiohttp.ClientSession() as session:
                got = await session.get(f"{running.url}/v1/tasks/{task}")
                newest[task] = (await got.json())["active"]
            await by.change(task, "alias", {"alias": "canary", "release": newest[task]})
        asked = [*TASKS, *(f"{task}@canary" for task in TASKS)]
        extra = [telling(backbone, "passing", n + 1) for n in range(ROUNDS)]
        by.took_ms.clear()
        load = Load(running, asked, by.known)
        async with load.running():
            for number in range(ROUNDS):
                task = dice.choice(TASKS)
                older = max(1, newest[task] - dice.randint(0, 5))
                await by.change(task, "activate", {"release": older})
                await by.change(task, "alias", {"alias": "canary", "release": older})
                await by.change(task, "split", {"weights": {str(older): 1, str(newest[task]): 1}})
                await by.publish("passing", extra[number])
                await by.retire("passing")
    took = sorted(by.took_ms)
    return len(load.hits), len(by.took_ms), *verdict(load.hits), round(took[len(took) // 2])


def verdict(hits: list[Hit]) -> tuple[int, int, int, str]:
    """Retried, failed after that, miscomputed; and what failures said."""
    failed = [h for h in hits if not h.ok]
    said = collections.Counter(f"{h.status} {h.said[:80]}" for h in failed)
    return (
        sum(h.first not in (0, h.status) or h.first == 0 for h in hits),
        len(failed),
        sum(h.miscomputed for h in hits),
        "; ".join(f"{n}× {text}" for text, n in said.most_common(3)),
    )


async def _sample(pids: list[int], into: list[float]) -> None:
    """The replicas' memory together, MiB, again and again."""
    while True:
        into.append(sum(memory_mib(pid) for pid in pids))
        await asyncio.sleep(SAMPLE_S)


def tables(
    count: int, published: list[tuple[Any, ...]], changed: list[tuple[Any, ...]]
) -> list[Table]:
    """Both tables."""
    return [
        Table(
            title="Publishing under load",
            text=(
                f"{count} releases of 4 tasks published over HTTP, one after the other, while 8 "
                "clients in a closed loop ask for these tasks; every other request sends the "
                "generation of the last publish that returned as `X-Min-Generation`. A retry is "
                "one more try after a 5xx or a closed connection; failed is what had no "
                "prediction after it. An answer is miscomputed when its label is not that of the "
                "release it names, stale when a newer release's publish had returned before the "
                "request was sent. Memory: resident MiB of all replicas, mean of the first and "
                "of the last tenth of the time."
            ),
            columns=(
                "server",
                "requests",
                "retried",
                "failed",
                "miscomputed",
                "failures said",
                "stale, generation demanded",
                "stale, not demanded",
                "publish ms, median",
                "request ms, median",
                "p99",
                "memory MiB",
            ),
            rows=published,
        ),
        Table(
            title="Rollback, alias, split and retire under load",
            text=(
                f"{ROUNDS} rounds of: activate an older release, move an alias, split between two "
                "releases, publish another task, retire it. The same 8 clients ask for the tasks "
                "by name and by alias, always with `X-Min-Generation`."
            ),
            columns=(
                "server",
                "requests",
                "changes",
                "retried",
                "failed",
                "miscomputed",
                "failures said",
                "change ms, median",
            ),
            rows=changed,
        ),
    ]


if __name__ == "__main__":
    main()
