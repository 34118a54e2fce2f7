"""Several replicas and servers: nothing stale, a killed engine, a redeploy, two servers, one store.

python -m tests.bench.hardening.topology
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from adapters_store.threads import wait_passively

wait_passively()

from adapters_store import artifact  # noqa: E402
from adapters_store import backbone as backbones  # noqa: E402
from adapters_store.backbone import Backbone  # noqa: E402
from serving.app import environment  # noqa: E402
from serving.launch import Running, processes  # noqa: E402
from tests.bench.hardening.churn import TASKS, Publisher, publisher, verdict  # noqa: E402
from tests.bench.hardening.load import Load, picture, quantile_ms, telling  # noqa: E402
from tests.bench.hardening.probe import Table, arguments, keep, request, server  # noqa: E402
from tests.conftest import make_adapter  # noqa: E402

ENGINES: Final = 3
HEADS: Final = 10
PAIRS: Final = 15  # of one call and ten calls
BACK_S: Final = 180.0  # for a replacement to be ready
REDEPLOY: Final = """
import sys, ray
from ray import serve
from serving.app import APPLICATION, build
from serving.config import Settings
ray.init(address=sys.argv[1])
serve.run(build(Settings.model_validate_json(sys.argv[2])), name=APPLICATION, route_prefix="/")
"""


def main() -> None:
    """One server of two doors and three engines for most of it, then two servers."""
    parser = arguments("topology", __doc__)
    parser.add_argument("--requests", type=int, default=1000)
    given = parser.parse_args()
    began, backbone = time.monotonic(), backbones.load()
    with tempfile.TemporaryDirectory(prefix="topology-") as folder:
        with server(
            store=f"file://{folder}/split", topology="split", replicas=ENGINES, doors=2
        ) as running:
            stale = asyncio.run(demanded(running, backbone, given.requests))
            together = ten_tasks(running, backbone)
            killed = asyncio.run(kill(running, backbone))
            rolled = asyncio.run(roll(running, backbone))
        shared = f"file://{folder}/shared"
        with server(store=shared) as one, server(store=shared) as other:
            twins = asyncio.run(both(one, other, backbone))
    found = tables(given.requests, stale, (killed, rolled), twins, together)
    keep(given.out, "topology", found, time.monotonic() - began)


async def demanded(running: Running, backbone: Backbone, requests: int) -> tuple[Any, ...]:
    """Publish, then ask for that generation, until so many answers have come."""
    number, hits = 0, []
    async with publisher(running) as by:
        while len(hits) < requests:
            number += 1
            for seed, task in enumerate(TASKS):
                await by.publish(task, telling(backbone, task, number, seed=seed))
            load = Load(running, TASKS, by.known, clients=8)
            async with load.running():
                await asyncio.sleep(1)
            hits += load.hits
        took = sorted(by.took_ms)
    return (
        f"{len(took)} publishes",
        len(hits),
        *verdict(hits),
        sum(h.stale for h in hits),
        round(took[len(took) // 2]),
        round(quantile_ms(hits, 0.5)),
    )


def engines(running: Running) -> set[int]:
    """Process numbers of the engines."""
    found = set()
    for pid in processes(running.session):
        try:
            if b"ServeReplica:rootstock:engine" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
        except OSError:
            continue
    return found


def ready_engines(running: Running) -> int:
    """How many engines the doors see ready."""
    status, said, _ = request(running, "GET", "/readyz")
    return sum(e["ready"] for e in json.loads(said).get("engines", ())) if status else 0


async def kill(running: Running, backbone: Backbone) -> tuple[Any, ...]:
    """SIGKILL one engine under load; wait for the replacement, and see that it has every task."""
    known = engines(running)
    async with publisher(running) as by:
        await _fresh(running, by, backbone)
        load = Load(running, TASKS, by.known, clients=4)
        async with load.running():
            await asyncio.sleep(1)
            os.kill(min(known), signal.SIGKILL)
            began = time.monotonic()
            while not (engines(running) - known and ready_engines(running) == len(known)):
                if time.monotonic() - began > BACK_S:
                    raise TimeoutError("no engine came in the place of the killed one")
                await asyncio.sleep(0.2)
            back = time.monotonic() - began
            await asyncio.sleep(1)
    has = _has(running, engines(running) - known)
    return ("engine killed", len(load.hits), *_told(load), round(back, 1), has)


async def roll(running: Running, backbone: Backbone) -> tuple[Any, ...]:
    """New settings for every replica, one after the other, under load."""
    before, began = engines(running), time.monotonic()
    async with publisher(running) as by:
        await _fresh(running, by, backbone)
        load = Load(running, TASKS, by.known, clients=4)
        async with load.running():
            await redeploy(running, budget_s=29.0)
            await asyncio.sleep(1)
    new = engines(running) - before
    took = round(time.monotonic() - began, 1)
    return ("rolling redeploy", len(load.hits), *_told(load), took, _has(running, new))


async def redeploy(running: Running, **changes: Any) -> None:
    """Give every replica these settings, as `serve deploy` would."""
    (port,) = (running.paths.folder / "session_latest").glob("gcs_server_port_*")
    changed = running.settings.model_copy(update=changes)
    given = f"127.0.0.1:{port.read_text().strip()}", changed.model_dump_json()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        REDEPLOY,
        *given,
        env=os.environ | environment(running.settings, running.paths),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(said.decode()[-2000:])


async def both(one: Running, other: Running, backbone: Backbone) -> tuple[Any, ...]:
    """Publish to either in turns, and ask both at once for that generation."""
    asked, wrong = 0, 0
    async with publisher(one) as first, publisher(other) as second:
        for number in range(1, 21):
            by = first if number % 2 else second
            await by.publish("shared", telling(backbone, "shared", number))
            for running in (one, other):
                status, said, _ = await asyncio.to_thread(
                    request,
                    running,
                    "POST",
                    "/v1/tasks/shared:predict",
                    picture(),
                    {"Content-Type": "image/png", "X-Min-Generation": str(by.known.generation)},
                )
                asked += 1
                wrong += status != 200 or json.loads(said)["release"] != number
    return (20, asked, wrong)


def ten_tasks(running: Running, backbone: Backbone) -> tuple[Any, ...]:
    """One call for ten tasks against ten calls, in turns; seconds as a client waits."""
    names = [f"head-{i}" for i in range(HEADS)]
    for i, name in enumerate(names):
        data = artifact.write(make_adapter(backbone, "linear", name, labels=3, seed=i))
        request(running, "PUT", f"/v1/tasks/{name}", data)
    query, kind = "&".join(f"task={n}" for n in names), {"Content-Type": "image/png"}
    ratios = []
    for _ in range(PAIRS):
        began = time.perf_counter()
        request(running, "POST", f"/v1/predict?{query}", picture(), kind)
        once = time.perf_counter() - began
        for name in names:
            request(running, "POST", f"/v1/tasks/{name}:predict", picture(), kind)
        ratios.append(once / (time.perf_counter() - began - once))
    ratios.sort()
    at = [ratios[len(ratios) * q // 4] for q in (1, 2, 3)]
    return (HEADS, PAIRS, f"{at[1]:.3f}", f"{at[0]:.3f} … {at[2]:.3f}")


async def _fresh(running: Running, by: Publisher, backbone: Backbone) -> None:
    """One more release of every task: its answers tell its number."""
    for seed, task in enumerate(TASKS):
        number = json.loads(request(running, "GET", f"/v1/tasks/{task}")[1])["active"] + 1
        await by.publish(task, telling(backbone, task, number, seed=seed))


def _told(load: Load) -> tuple[Any, ...]:
    return (*verdict(load.hits), sum(h.stale for h in load.hits))


def _has(running: Running, new: set[int]) -> str:
    """How many of the tasks every engine says it has, and how many engines are new."""
    holding = 0
    for task in TASKS:
        about = json.loads(request(running, "GET", f"/v1/tasks/{task}")[1])
        own = [r for r in about["replicas"] if r["kind"] == "engine"]
        holding += len(own) == ENGINES and all(r["release"] == about["active"] for r in own)
    return f"{holding} of {len(TASKS)}, {len(new)} new"


def tables(
    requests: int,
    stale: tuple[Any, ...],
    changes: tuple[tuple[Any, ...], ...],
    twins: tuple[Any, ...],
    together: tuple[Any, ...],
) -> list[Table]:
    """What is kept."""
    terms = (
        "A retry is one more try after a 5xx or a closed connection; failed is what had no "
        "prediction after it; miscomputed and stale as above."
    )
    return [
        Table(
            "Three engines: nothing stale",
            f"Two doors, three engines. Four tasks are published, then eight clients send "
            f"`X-Min-Generation` of the last publish that returned, until {requests} answers have "
            f"come. {terms} Medians in ms.",
            ("what", "requests", "retried", "failed", "miscomputed", "said", "stale", "publish ms",
             "answer ms"),
            [stale],
        ),
        Table(
            "Three engines: killed and redeployed under load",
            f"Four clients in a closed loop. {terms} Every task is then asked of every engine.",
            ("what", "requests", "retried", "failed", "miscomputed", "said", "stale",
             "seconds until all are ready", "tasks that every engine has, new engines"),
            list(changes),
        ),
        Table(
            "Two servers, one store",
            "Both with HAProxy on one machine. Publishes go to either in turns; each is asked of "
            "both at once, by its generation.",
            ("publishes", "requests", "wrong or refused"),
            [twins],
        ),
        Table(
            "One image, ten tasks",
            "One call of `POST /v1/predict` for ten tasks that are heads alone, against ten calls "
            "one after the other: time of the client, ratio of neighbours, through HAProxy and "
            "the hop.",
            ("tasks", "pairs", "ratio, median", "quartiles"),
            [together],
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
