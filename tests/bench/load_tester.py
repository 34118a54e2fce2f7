"""What the load tester itself can do: its ceiling beside wrk's and hey's, and its knees.

    python -m tests.bench.load_tester ceiling|knees [--rounds 5] [--seconds 4]

`ceiling`: the same server, the same POST of 12 kB, 16 connections in a closed loop; the arms take
turns. Requests a second of a client's own processor time are compared, so that a busy machine
takes from all alike. `knees`: three searches on a server of known rate.
"""

import argparse
import asyncio
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop

from loadtest.saturate import saturate
from loadtest.scenario import Scenario
from tests.known_server import Behaviour, KnownServer

BODY_BYTES = 12_000
CONNECTIONS = 16
RATE = 200.0
ANSWER = json.dumps(
    {
        "task": "t",
        "release": 1,
        "digest": "d",
        "path": "mixed",
        "predictions": [
            {"label": "a", "index": 0, "probability": 0.9},
            {"label": "b", "index": 1, "probability": 0.1},
        ],
        "request_id": "",
    }
).encode()
REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Adapter-Digest: d\r\n"
    b"X-Generation: 1\r\nServer-Timing: decode;dur=1.00, queue;dur=0.50, compute;dur=2.00\r\n"
    b"Content-Length: %d\r\n\r\n" % len(ANSWER)
) + ANSWER
LUA = 'wrk.method = "POST"\nlocal f = io.open("%s", "rb")\nwrk.body = f:read("*a")\n'
SCENARIO = """
duration_s = {seconds}
warmup_s = 0
[arrivals]
kind = "closed"
clients = {clients}
[tasks]
names = ["t"]
[images]
folder = "{folder}"
[target]
metrics = ""
"""


class Trivial(asyncio.Protocol):
    """Answers whatever has come in whole, with the same bytes."""

    def connection_made(self, transport):
        self._transport, self._held = transport, b""

    def data_received(self, data):
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            at = self._held[:end].lower().find(b"content-length:")
            size = int(self._held[at + 15 : end].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._held) < end + 4 + size:
                return
            self._held = self._held[end + 4 + size :]
            self._transport.write(REPLY)


async def serve() -> None:
    """Until killed; says its port."""
    server = await asyncio.get_running_loop().create_server(Trivial, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def spent(command: list[str]) -> tuple[str, float]:
    """What a command prints, and its processor seconds, those of its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, used


def ceiling(rounds: int, seconds: float) -> None:
    """A table of medians, and ratios of each round to the load tester's."""
    with (
        tempfile.TemporaryDirectory() as name,
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.load_tester", "serve"], stdout=subprocess.PIPE
        ) as server,
    ):
        try:
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            arms = _arms(Path(name), url, seconds)
            rows: dict = {arm: [] for arm in arms}
            for _ in range(rounds):
                for arm, run in arms.items():
                    rows[arm].append(run())
        finally:
            server.kill()
    ours = [rate for _, rate in rows["rootstock loadtest"]]
    for arm, found in rows.items():
        ratio = statistics.median(o / rate for o, (_, rate) in zip(ours, found, strict=True))
        wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{arm:<20} {wall:9.0f} /s  {cpu:9.0f} /s of a core  ours is {ratio:.2f} of it")


def _arms(folder: Path, url: str, seconds: float) -> dict:
    """Each gives requests a second, and a second of its own processor time."""
    path = f"{url}/v1/tasks/t:predict?top_k=2"
    body, lua, toml = folder / "x.jpg", folder / "post.lua", folder / "closed.toml"
    body.write_bytes(bytes(range(256)) * (BODY_BYTES // 256))
    lua.write_text(LUA % body)
    toml.write_text(SCENARIO.format(seconds=seconds, clients=CONNECTIONS, folder=folder))

    def wrk():
        words = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}", "-s", str(lua), path]
        text, used = spent(["wrk", *words])
        count = int(next(x for x in text.splitlines() if "requests in" in x).split()[0])
        return count / seconds, count / used

    def hey():
        words = ["-z", f"{seconds:g}s", "-c", str(CONNECTIONS), "-cpus", "1", "-m", "POST"]
        text, used = spent(["hey", *words, "-T", "image/jpeg", "-D", str(body), path])
        count = int(next(x for x in text.splitlines() if "[200]" in x).split()[1])
        return count / seconds, count / used

    def ours():
        out = folder / "x.hits.npz"
        command = [sys.executable, "-m", "rootstock", "loadtest", "attack", str(toml)]
        options = ["--url", url, "--out", str(out), "--json"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        report = json.loads(done.stdout)
        (client,) = report["clients"]
        assert report["outcomes"].keys() <= {"ok", "abandoned"}
        return report["rates"]["ok"], report["rates"]["ok"] / client["cpu"]

    arms = {"rootstock loadtest": ours, "wrk": wrk, "hey": hey}
    return {arm: run for arm, run in arms.items() if arm not in ("wrk", "hey") or shutil.which(arm)}


def knees(rounds: int) -> None:
    """Searches on a server that answers 200 requests a second, and not one more."""
    for number in range(rounds):
        with KnownServer(Behaviour(rate=RATE, delay_s=0.01, queue_max=100)) as server:
            scenario = Scenario.model_validate(
                {
                    "seed": number,
                    "warmup_s": 0.5,
                    "target": {"url": server.url},
                    "arrivals": {"kind": "constant", "rate": 1},
                    "images": {"count": 4},
                    "slo": {"latency_ms": 200},
                    "saturate": {"start_rate": 30 + 20 * number, "step_s": 5, "tolerance": 0.05},
                }
            )
            found = asyncio.run(saturate(scenario))
        beyond = ", ".join(
            f"{row['factor']:g} x: {row['rates']['ok']:.0f}/s right, "
            f"{row['shed_share']:.0%} refused, itself again after {row['recovery_s']} s"
            for row in found["overload"]
        )
        off = found["knee"] / RATE - 1
        print(f"knee {found['knee']:.1f}/s ({off:+.1%}), {len(found['steps'])} steps; {beyond}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["ceiling", "knees", "serve"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    if given.what == "serve":
        uvloop.run(serve())
    elif given.what == "ceiling":
        ceiling(given.rounds, given.seconds)
    else:
        knees(given.rounds)
