"""The store goes away for a minute, the disk fills up, the server is told to stop under load.

    python -m tests.bench.hardening.outages

Filling a disk takes a small file system of its own, which only root may mount.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

from adapters_store.threads import wait_passively

wait_passively()

from adapters_store import backbone as backbones  # noqa: E402
from adapters_store.backbone import Backbone  # noqa: E402
from adapters_store.store import AdapterStore  # noqa: E402
from serving.launch import Running, free_port, processes  # noqa: E402
from tests.bench.hardening.churn import TASKS, publisher, verdict  # noqa: E402
from tests.bench.hardening.load import Load, picture, telling  # noqa: E402
from tests.bench.hardening.probe import (  # noqa: E402
    Table,
    arguments,
    keep,
    request,
    server,
)
from tests.s3_server import BUCKET, environment  # noqa: E402

S3 = Path(__file__).parents[2] / "s3_server.py"
PAGE = 4096
_PICTURE = picture()


def main() -> None:
    """All three."""
    parser = arguments("outages", __doc__)
    parser.add_argument("--minute", type=float, default=60.0, help="seconds without a store")
    parser.add_argument("--stops", type=int, default=3)
    given = parser.parse_args()
    began = time.monotonic()
    backbone = backbones.load()
    tables = [
        _table_unreachable(backbone, given.minute),
        _table_stops(backbone, given.stops),
        *_table_full(backbone),
    ]
    keep(given.out, "outages", tables, time.monotonic() - began)


def _table_unreachable(backbone: Backbone, seconds: float) -> Table:
    rows = [
        (how, *unreachable(backbone, how, seconds))
        for how in ("does not answer", "refuses connections")
    ]
    return Table(
        title="A store that cannot be reached",
        text=(
            f"An S3 server (moto, a process of its own) for {seconds:.0f} s stopped, or its port "
            "closed, while 8 clients in a closed loop ask for 4 tasks with `X-Min-Generation`. "
            "Meanwhile somebody tries to publish."
        ),
        columns=(
            "the store",
            "requests",
            "retried",
            "failed",
            "miscomputed",
            "failures said",
            "/readyz meanwhile",
            "noticed after s",
            "publish meanwhile",
            "after s",
            "recovered after s",
            "publish then",
        ),
        rows=rows,
    )


def unreachable(backbone: Backbone, how: str, seconds: float) -> tuple[Any, ...]:
    """One outage of a server on an S3 store behind a door that can be shut."""
    with _s3() as (pid, port), _Door(port) as door:
        os.environ |= environment(door.url)
        urlopen(Request(f"{door.url}/{BUCKET}", method="PUT")).close()
        with server(store=f"s3://{BUCKET}/outage") as running:
            return asyncio.run(_outage(running, backbone, how, seconds, pid, door))


async def _outage(
    running: Running, backbone: Backbone, how: str, seconds: float, pid: int, door: "_Door"
) -> tuple[Any, ...]:
    async with publisher(running) as by:
        for task in TASKS:
            await by.publish(task, telling(backbone, task, 1))
        load = Load(running, TASKS, by.known)
        async with load.running():
            await asyncio.sleep(2)
            gone = time.monotonic()
            os.kill(pid, signal.SIGSTOP) if how == "does not answer" else door.shut()
            try:
                noticed = await _until(running, "unreachable", gone + seconds)
                status, said = await asyncio.to_thread(_ready, running)
                tried = time.monotonic()
                refused = await asyncio.to_thread(_publish, running, backbone, 2)
                took = time.monotonic() - tried
                await asyncio.sleep(max(0.0, gone + seconds - time.monotonic()))
            finally:
                os.kill(pid, signal.SIGCONT) if how == "does not answer" else door.open()
            back = time.monotonic()
            await _until(running, "ok", back + 60)
            recovered = time.monotonic() - back
            after = await asyncio.to_thread(_publish, running, backbone, 2)
            await asyncio.sleep(1)
    return (
        len(load.hits),
        *verdict(load.hits),
        f"{status}, store {said}",
        round(noticed - gone, 1),
        refused,
        round(took, 1),
        round(recovered, 1),
        after,
    )


async def _until(running: Running, word: str, deadline: float) -> float:
    while time.monotonic() < deadline:
        if (await asyncio.to_thread(_ready, running))[1] == word:
            break
        await asyncio.sleep(0.1)
    return time.monotonic()


def _ready(running: Running) -> tuple[int, str]:
    status, body, _ = request(running, "GET", "/readyz", timeout_s=5)
    return status, _value(body, "store")


def _publish(running: Running, backbone: Backbone, number: int) -> str:
    data = telling(backbone, TASKS[0], number)
    status, body, _ = request(running, "PUT", f"/v1/tasks/{TASKS[0]}", data, timeout_s=60)
    return f"{status} {_value(body, 'detail')}".strip()


def _value(body: bytes, name: str) -> str:
    return str(json.loads(body or b"{}").get(name, ""))


@contextmanager
def _s3() -> Iterator[tuple[int, int]]:
    """Process and port of an S3 server."""
    command = [sys.executable, str(S3)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline().strip().rpartition(":")[2])
        assert process.stdin is not None
        process.stdin.close()


class _Door:
    """A port that leads to another one, and can be shut: then it refuses."""

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    def open(self) -> None:
        """Forward again."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FORWARD, str(self.port), str(self._behind)],
            stdin=subprocess.PIPE,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)

    def shut(self) -> None:
        """Close the port, and every connection through it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


_FORWARD = """
import asyncio, sys, threading, os
here, there = map(int, sys.argv[1:])
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
async def pipe(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data); await writer.drain()
    except OSError:
        pass
    writer.close()
async def serve(reader, writer):
    back, forth = await asyncio.open_connection("127.0.0.1", there)
    await asyncio.gather(pipe(reader, forth), pipe(back, writer))
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", here) as server:
        await server.serve_forever()
asyncio.run(main())
"""


def _table_stops(backbone: Backbone, stops: int) -> Table:
    rows = [
        (ingress, f"{i + 1}", *stopped(backbone, ingress))
        for ingress in ("haproxy", "python")
        for i in range(stops)
    ]
    return Table(
        title="Stopping under load",
        text=(
            "2 replicas, 8 clients in a closed loop; the server is told to stop. Cut off: a "
            "request that was sent and got neither an answer nor a refusal on its first try. "
            "Refused: no connection any more. Left: processes, listening ports and folders of "
            "the run afterwards."
        ),
        columns=(
            "ingress",
            "stop",
            "answered",
            "cut off",
            "refused",
            "503",
            "other",
            "stop s",
            "left",
        ),
        rows=rows,
    )


def stopped(backbone: Backbone, ingress: str) -> tuple[Any, ...]:
    """One start and stop."""
    with tempfile.TemporaryDirectory(prefix="stopped-") as folder:
        with server(store=f"file://{folder}", ingress=ingress, replicas=2) as running:
            session, port = running.session, running.settings.port
            load, took = asyncio.run(_stop(running, backbone))
        left = len(processes(session)) + int(running.paths.folder.exists())
        with socket.socket() as probe:
            left += int(probe.connect_ex(("127.0.0.1", port)) == 0)
    refused = sum(h.first == 0 and "Connector" in h.first_said for h in load.hits)
    cut = sum(h.first == 0 for h in load.hits) - refused
    answered = sum(h.first == 200 for h in load.hits)
    leaving = sum(h.first == 503 for h in load.hits)
    other = len(load.hits) - answered - cut - refused - leaving
    return answered, cut, refused, leaving, other, round(took, 1), left


async def _stop(running: Running, backbone: Backbone) -> tuple[Load, float]:
    async with publisher(running) as by:
        for task in TASKS:
            await by.publish(task, telling(backbone, task, 1))
        load = Load(running, TASKS, by.known)
        async with load.running():
            await asyncio.sleep(3)
            began = time.monotonic()
            await asyncio.to_thread(running.stop)
            return load, time.monotonic() - began


def _table_full(backbone: Backbone) -> list[Table]:
    with tempfile.TemporaryDirectory(prefix="full-") as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False
        )
        if mounted.returncode:
            print("no disk was filled: only root may mount one")
            return []
        try:
            with server(store=f"file://{folder}/store") as running:
                rows = full(running, backbone, Path(folder))
        finally:
            subprocess.run(["umount", folder], check=True)
    return [
        Table(
            title="A disk that is full",
            text=(
                "A file store on a disk of 4 MiB (tmpfs) with so many pages of 4 KiB left; an "
                "artifact is published to a running server. Half-written: objects that a listing "
                "of the store shows after a refusal and not before, blobs that wait for `gc` not "
                "counted. At the end space is made and the same artifact is published."
            ),
            columns=(
                "pages left",
                "answer",
                "says",
                "generation",
                "verify faults",
                "orphan blobs",
                "half-written",
                "predictions",
            ),
            rows=rows,
        )
    ]


def full(running: Running, backbone: Backbone, disk: Path) -> list[tuple[Any, ...]]:
    """Publish with less and less room, then with enough."""
    store = AdapterStore.open(f"file://{disk}/store", backbone.spec.ref.digest)
    request(running, "PUT", f"/v1/tasks/{TASKS[0]}", telling(backbone, TASKS[0], 1))
    rows: list[tuple[Any, ...]] = []
    filler = disk / "filler"
    number = 1
    for pages in (0, 1, 2, 4, 8, 12, 14, 15, 16, 17, 18, 20, 24, 32, 500):
        filler.unlink(missing_ok=True)
        room = os.statvfs(disk).f_bavail - pages
        filler.write_bytes(b"\0" * (PAGE * max(room, 0)))
        before = _objects(disk)
        data = telling(backbone, TASKS[0], number + 1)
        status, body, _ = request(running, "PUT", f"/v1/tasks/{TASKS[0]}", data)
        number += status == 201
        said = _value(body, "detail")
        new = _objects(disk) - before if status != 201 else set()
        orphans = {path for path in new if path.endswith(".safetensors")}
        answer = request(running, "POST", f"/v1/tasks/{TASKS[0]}:predict", _PICTURE)
        rows.append(
            (
                pages,
                status,
                said,
                store.catalog().generation,
                len(store.verify().faults),
                len(orphans),
                len(new - orphans),
                answer[0],
            )
        )
    return rows


def _objects(disk: Path) -> set[str]:
    return {str(path) for path in (disk / "store").rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
