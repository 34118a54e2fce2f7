"""End to end: the same pictures through HTTP and in process. Knows wiring, measures ratios only."""

import asyncio
import io
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from adapters_store import artifact
from adapters_store import backbone as backbones
from adapters_store.backbone import Backbone
from adapters_store.store import AdapterStore
from rootstock.bench.adapters import Maker
from rootstock.bench.turns import Spread, order, quotients
from rootstock.bench.wrk import Wrk, present
from serving.config import Settings
from serving.launch import free_port, run
from serving.replica import Replica

_METHODS: Final = ("alore", "lora")
_PICTURES: Final = 32
_SERVERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "haproxy": {"ingress": "haproxy"},
    "python": {"ingress": "python"},
    "split": {"ingress": "haproxy", "topology": "split"},
}

Send = Callable[[int], Awaitable[None]]  # one request, by its number


def measure(
    folder: Path,
    backbone: str,
    weights: Path | None,
    images: Path | None,
    dtype: str,
    tasks: int,
    clients: int,
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """One row an arm: in process, through HAProxy, through the Python proxy, and split.

    The arms take turns; a ratio is of neighbouring turns, its median and quartiles are given. Over
    HTTP wrk sends, where it is installed: a client in Python would take much of the cores.
    """
    base, file = _weights(folder, backbone, weights)
    store = f"file://{folder}/store-{dtype}"
    names = _publish(store, base, tasks)
    pictures = _pictures(images)
    common: dict[str, Any] = {
        "store": store,
        "backbone": backbone,
        "weights": file,
        "dtype": dtype,
        "queue_max": 4 * clients,
        "wait_s": 60.0,  # every client waits for its answer; none is to be refused
    }
    with ExitStack() as stack:
        urls = {}
        for system, own in _SERVERS.items():
            settings = Settings(**common, **own, port=free_port())
            urls[system] = stack.enter_context(run(settings)).url
        replica = Replica(Settings(**common), "bench")
        stack.callback(replica.close)
        wrk = Wrk(folder / f"wrk-{dtype}", names, pictures) if present() else None
        systems = asyncio.run(_arms(replica, urls, names, pictures, clients, rounds, seconds, wrk))
        threads = torch.get_num_threads()
    return [
        {
            "bench": "e2e",
            "system": system,
            "backbone": backbone,
            "dtype": dtype,
            "device": "cpu",
            "threads": threads,
            "clients": clients,
            "client": "aiohttp" if wrk is None or system == "process" else "wrk",
            "distinct": tasks,
            "runs": rounds,
            "images_per_s": [round(r, 2) for r in rates],
            "ratio": ratio.median,
            "quartiles": ratio.quartiles,
        }
        for system, rates in systems.items()
        for ratio in (Spread.of(quotients(rates, systems["process"])),)
    ]


async def _arms(
    replica: Replica,
    urls: dict[str, str],
    names: Sequence[str],
    pictures: Sequence[bytes],
    clients: int,
    rounds: int,
    seconds: float,
    wrk: Wrk | None,
) -> dict[str, list[float]]:
    """Images per second of every turn, by system; one turn each to warm up."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def in_process(i: int) -> None:
            name, picture = names[i % len(names)], pictures[i % len(pictures)]
            await replica.classify(name, picture, key=None, budget_s=60.0)

        def over_http(url: str) -> Send:
            async def send(i: int) -> None:
                path = f"{url}/v1/tasks/{names[i % len(names)]}:predict"
                headers = {"Content-Type": "image/jpeg"}
                body = pictures[i % len(pictures)]
                async with session.post(path, data=body, headers=headers) as response:
                    await response.read()
                    response.raise_for_status()

            return send

        async def turn(system: str, seconds: float) -> float:
            if system not in urls:
                return await _turn(in_process, clients, seconds)
            if wrk is None:
                return await _turn(over_http(urls[system]), clients, seconds)
            return await asyncio.to_thread(wrk.turn, urls[system], clients, seconds)

        arms = ("process", *urls)
        for system in arms:
            await turn(system, 1.0)
        rates: dict[str, list[float]] = {system: [] for system in arms}
        for number in range(rounds):
            for system in order(list(arms), number):
                rates[system].append(await turn(system, seconds))
    return rates


async def _turn(send: Send, clients: int, seconds: float) -> float:
    """Answers per second of a closed loop."""
    number, done = itertools.count(), 0
    until = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await send(next(number))
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - began)


def _weights(folder: Path, name: str, weights: Path | None) -> tuple[Backbone, Path | None]:
    """The backbone, and a file of its weights that servers can load."""
    if name == backbones.NANO or weights is not None:
        return backbones.load(name, weights), weights
    made, file = backbones.random(name), folder / "random.safetensors"
    save_file(dict(made.net.state_dict()), file)
    return made, file


def _publish(store: str, backbone: Backbone, tasks: int) -> list[str]:
    """So many tasks with random adapters, methods in turn; speed does not depend on the values."""
    opened, maker = AdapterStore.open(store, backbone.spec.ref.digest), Maker(backbone)
    names = [f"task-{i}" for i in range(tasks)]
    for i, name in enumerate(names):
        data = artifact.write(maker.make(_METHODS[i % len(_METHODS)], name, i))
        opened.publish(data, name, by="bench")
    return names


def _pictures(folder: Path | None) -> list[bytes]:
    """Bodies to send: the folder's files, or smooth noise of 500x375 as JPEG."""
    if folder is not None:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
        if not files:
            raise FileNotFoundError(2, "no JPEG in the folder", str(folder))
        return [p.read_bytes() for p in files]
    rng, bodies = np.random.default_rng(0), []
    for _ in range(_PICTURES):
        rough = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        file = io.BytesIO()
        rough.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        bodies.append(file.getvalue())
    return bodies
