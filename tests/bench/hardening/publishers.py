"""400 publishes by 8 processes at once, undisturbed and with processes killed at random.

    python -m tests.bench.hardening.publishers

On a folder and on S3 (a server process of its own). A killed writer is started again with what it
has not reported, until all 400 publishes have returned; what counts is what the log then says.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters_store.events import Publish
from adapters_store.log import Log
from adapters_store.objects import Objects
from adapters_store.store import AdapterStore
from tests.bench.hardening.probe import Table, arguments, keep
from tests.bench.hardening.writer import FOLDER, artifact
from tests.s3_server import BUCKET, environment, s3_server

WRITERS, EACH = 8, 50
SIZES = (20_000, 400_000)  # bytes of an artifact
ROOT = Path(__file__).parents[3]
COLUMNS = (
    *("store", "writers are", "publishes returned", "releases in the log", "lost", "duplicates"),
    *("gaps", "wrong answers", "verify faults", "kills", "drafts left", "orphan blobs"),
    *("lost races per publish", "median ms", "p99 ms", "seconds"),
)
Item = tuple[str, str, int]  # task, seed, bytes


@dataclass
class Writer:
    """A publisher that is started again until all it has to publish is published."""

    uri: str
    name: str
    items: list[Item]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)  # by seed
    kills: int = 0
    process: subprocess.Popen[str] | None = None  # while it publishes

    def run(self, start: threading.Barrier) -> None:
        """All writers begin at the same moment; who is started again begins at once."""
        while left := [item for item in self.items if item[1] not in self.done]:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.hardening.writer", self.uri, self.name],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            with process:
                process.stdout.readline()  # it is ready
                if not self.kills:
                    start.wait()
                process.stdin.write(json.dumps(left))
                process.stdin.close()
                self.process = process
                for line in process.stdout:
                    if line.endswith("\n"):  # else it was killed while it reported
                        report = json.loads(line)
                        self.done[report["seed"]] = report
                self.process = None
            self.kills += process.returncode == -9
            if process.returncode not in (0, -9):
                raise RuntimeError(f"{self.name} ended with {process.returncode}")


def plan(uri: str) -> list[Writer]:
    """Every other release goes to one of three tasks that all writers share."""
    rng = random.Random(7)
    return [
        Writer(
            uri,
            f"writer {n}",
            [
                (f"shared-{k % 3}" if k % 2 else f"own-{n}", f"{n} {k}", rng.randint(*SIZES))
                for k in range(EACH)
            ],
        )
        for n in range(WRITERS)
    ]


def kill(writers: list[Writer], ended: threading.Event, rng: random.Random) -> None:
    """One publisher after every few publishes, at any moment of its work."""
    due = 0
    while not ended.wait(rng.uniform(0, 0.05)):
        if sum(len(writer.done) for writer in writers) >= due:
            process = rng.choice(writers).process
            if process:
                process.kill()
                due = sum(len(writer.done) for writer in writers) + rng.randint(1, 9)


def measure(kind: str, uri: str, *, killing: bool) -> tuple[str | int | float, ...]:
    """A row of the table."""
    writers, ended, began = plan(uri), threading.Event(), time.perf_counter()
    start = threading.Barrier(WRITERS)
    threads = [threading.Thread(target=writer.run, args=(start,)) for writer in writers]
    for thread in threads:
        thread.start()
    if killing:
        killer = threading.Thread(target=kill, args=(writers, ended, random.Random(11)))
        killer.start()
    for thread in threads:
        thread.join()
    ended.set()
    took = time.perf_counter() - began

    objects = Objects.open(uri, FOLDER)
    store, log = AdapterStore(objects), Log(objects)
    events, blocked = log.read(0)
    numbers, _ = log.numbers("log")
    published = [event for event in events if isinstance(event, Publish)]
    found = Counter(event.digest for event in published)
    at = {event.digest: event for event in published}
    wanted = {
        hashlib.sha256(artifact(seed, size)).hexdigest(): (writer, task, seed)
        for writer in writers
        for task, seed, size in writer.items
    }
    releases = {task: [r.number for r in t.releases] for task, t in store.catalog().tasks.items()}
    gaps = len(set(range(1, max(numbers) + 1)) - set(numbers)) + sum(
        given != [*range(1, len(given) + 1)] for given in releases.values()
    )
    wrong = bool(blocked) + sum(
        digest not in at
        or (at[digest].task, at[digest].release) != (task, writer.done[seed]["release"])
        or at[digest].generation != writer.done[seed]["generation"]
        for digest, (writer, task, seed) in wanted.items()
        if seed in writer.done
    )
    for writer in writers:  # each saw its own publishes in the order in which it made them
        order = [writer.done[seed]["generation"] for _, seed, _ in writer.items]
        wrong += order != sorted(order)
    reports = [report for writer in writers for report in writer.done.values()]
    times = sorted(report["ms"] for report in reports)
    drafts = len([*Path(uri).rglob("*#*")]) if kind == "file" else 0
    return (
        kind,
        "killed" if killing else "left alone",
        len(reports),
        len(published),
        len(wanted.keys() - found.keys()),
        sum(count - 1 for count in found.values()) + len(found.keys() - wanted.keys()),
        gaps,
        wrong,
        len(store.verify().faults),
        sum(writer.kills for writer in writers),
        drafts,
        store.gc().young,
        sum(report["races"] for report in reports) / len(reports),
        times[len(times) // 2],
        times[int(0.99 * len(times))],
        round(took),
    )


def main() -> None:
    args = arguments("publishers", __doc__).parse_args()
    began = time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory() as folder, s3_server() as url:
        os.environ.update(environment(url))
        for killing in (False, True):
            rows.append(measure("file", f"{folder}/{uuid.uuid4()}", killing=killing))
            rows.append(measure("s3", f"s3://{BUCKET}/{uuid.uuid4()}", killing=killing))
    rows.sort()
    text = (
        f"{WRITERS} processes publish {EACH} artifacts each ({SIZES[0] // 1000} to "
        f"{SIZES[1] // 1000} kB), half of them as releases of three tasks that all share. Killed "
        "writers (SIGKILL, at seeded random moments) start again with what they had not "
        "reported. Lost: not in the log although publishing returned. Wrong answers: another "
        "number or place in the log than publishing said. S3 is moto, one request at a time."
    )
    table = Table("Concurrent publishers, left alone and killed", text, COLUMNS, rows)
    keep(args.out, "publishers", [table], time.perf_counter() - began)


if __name__ == "__main__":
    main()
