"""A closed loop of clients whose every answer can be checked. HTTP only.

Release n of any task answers with label n mod 16, whatever the picture, through factors of its
own: an answer computed by another release than the one it names shows.
"""

import asyncio
import contextlib
import io
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import aiohttp
import numpy as np
from PIL import Image

from adapters_store import artifact
from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone
from adapters_store.effect import Golden
from serving.launch import Running
from tests.conftest import make_adapter

LABELS = 16
TIMEOUT_S = 30.0


def telling(backbone: Backbone, task: str, number: int, seed: int = 0) -> bytes:
    """The artifact of a release that answers with its number, mod 16."""
    made = make_adapter(backbone, "lora", task, LABELS, 1000 * seed + number, effect=False)
    bias = made.tensors["head.bias"].copy()
    bias[number % LABELS] += 100.0
    adapter = Adapter(manifest=made.manifest, tensors={**made.tensors, "head.bias": bias})
    record = Golden(backbone).record(adapter)
    manifest = made.manifest.model_copy(update={"effect": record})
    return artifact.write(Adapter(manifest=manifest, tensors=adapter.tensors))


def picture(seed: int = 0, size: int = 64) -> bytes:
    """A PNG of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class Hit:
    """One request, with what came of it after at most one retry."""

    task: str
    wanted: int  # X-Min-Generation, 0 where none was sent
    floor: int  # the newest release of the task whose publish had returned when this was sent
    sent: float
    done: float
    first: int  # status of the first try; 0: closed without an answer
    status: int  # of the last try
    release: int = 0
    label: str = ""
    said: str = ""  # on failure
    first_said: str = ""

    @property
    def ok(self) -> bool:
        """Answered with a prediction."""
        return self.status == 200

    @property
    def miscomputed(self) -> bool:
        """The label is not the one of the release that the answer names."""
        return self.ok and self.label != f"label {self.release % LABELS}"

    @property
    def stale(self) -> bool:
        """By an older release than one whose publish had returned."""
        return self.ok and self.release < self.floor


@dataclass
class Known:
    """What the publisher's answers have told so far."""

    generation: int = 0
    release: dict[str, int] = field(default_factory=dict)


class Load:
    """Clients that send until they are stopped."""

    def __init__(
        self,
        running: Running,
        tasks: list[str],
        known: Known,
        *,
        clients: int = 8,
        demand: Callable[[random.Random], bool] = lambda _: True,
        pause_s: float = 0.1,
    ) -> None:
        self._url, self._tasks, self._known = running.url, tasks, known
        self._clients, self._demand, self._pause_s = clients, demand, pause_s
        self._picture, self._stopped = picture(), False
        self.hits: list[Hit] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """Load while the context lasts; every hit is there at its end."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            clients = [
                asyncio.create_task(self._client(session, seed)) for seed in range(self._clients)
            ]
            try:
                yield self
            finally:
                self._stopped = True
                await asyncio.gather(*clients)

    async def _client(self, session: aiohttp.ClientSession, seed: int) -> None:
        dice = random.Random(seed)
        while not self._stopped:
            task = dice.choice(self._tasks)
            wanted = self._known.generation if self._demand(dice) else 0
            floor = self._known.release.get(task, 0)
            sent = time.monotonic()
            first = await self._try(session, task, wanted)
            hit = replace(first, floor=floor, sent=sent, first_said=first.said)
            if hit.status == 0 or hit.status >= 500:
                await asyncio.sleep(self._pause_s)
                again = await self._try(session, task, wanted)
                hit = replace(
                    again, floor=floor, sent=sent, first=first.status, first_said=first.said
                )
            self.hits.append(hit)

    async def _try(self, session: aiohttp.ClientSession, task: str, wanted: int) -> Hit:
        headers = {"Content-Type": "image/png"}
        if wanted:
            headers["X-Min-Generation"] = str(wanted)
        url = f"{self._url}/v1/tasks/{task}:predict"
        status, release, label, said = 0, 0, "", ""
        try:
            async with session.post(url, data=self._picture, headers=headers) as response:
                status, said = response.status, await response.text()
                if status == 200:
                    answer = await response.json(content_type=None)
                    release, label, said = answer["release"], answer["predictions"][0]["label"], ""
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            status, said = 0, type(error).__name__
        now = time.monotonic()
        return Hit(task, wanted, 0, now, now, status, status, release, label, said[:300])


def quantile_ms(hits: list[Hit], q: float) -> float:
    """A quantile of the latency of answered requests, retries included."""
    took = sorted(1000 * (h.done - h.sent) for h in hits if h.ok)
    return took[min(len(took) - 1, int(q * len(took)))] if took else float("nan")
