"""What every hardening benchmark stands on: a real server, its processes' memory, the result file.

Linux only: memory is read from /proc, and the high-water mark is set back before each case.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.config import Settings
from serving.launch import Running, free_port, processes, run


@dataclass(frozen=True, slots=True)
class Table:
    """One table of docs/results/hardening.md."""

    title: str
    text: str  # what was done, in a sentence or two
    columns: tuple[str, ...]
    rows: list[tuple[str | int | float, ...]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and what it cost the server."""

    status: int  # 0: the connection was closed without an answer
    body: bytes
    headers: Mapping[str, str]
    ms: float
    peak_mib: float  # most memory that the replica had during the call beyond what it had before

    @property
    def said(self) -> str:
        """The label of a prediction, or the detail of a problem document."""
        with contextlib.suppress(ValueError):
            answer = json.loads(self.body)
            if "predictions" in answer:
                return str(answer["predictions"][0]["label"])
            return str(answer.get("detail") or answer.get("title") or answer)
        return self.body.decode(errors="replace")


@contextlib.contextmanager
def server(**settings: Any) -> Iterator[Running]:
    """A server of one replica on this machine, in the way that users start it."""
    with run(Settings(**{"port": free_port(), "threads": 1, **settings})) as running:
        yield running


def replicas(running: Running) -> list[int]:
    """Process numbers of the server's replicas."""
    found = []
    for pid in processes(running.session):
        with contextlib.suppress(OSError):
            if b"ServeReplica" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """What a process holds (VmRSS), or the most since `forget_peak` (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def forget_peak(pid: int) -> None:
    """Set a process's high-water mark back to what it holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def call(
    running: Running,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 60.0,
) -> Answer:
    """One call on a connection of its own, timed, with the replica's peak memory."""
    (replica,) = replicas(running)
    forget_peak(replica)
    before = memory_mib(replica)
    began = time.perf_counter()
    status, said, answered = request(running, method, path, body, headers, timeout_s=timeout_s)
    took = 1000 * (time.perf_counter() - began)
    return Answer(status, said, answered, took, max(0.0, memory_mib(replica, "VmHWM") - before))


def request(
    running: Running,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 60.0,
) -> tuple[int, bytes, Mapping[str, str]]:
    """Status, body and headers (names in lower case) of one call; status 0 if there was none.

    A server that refuses a body may close before it has read it all: the answer still counts.
    """
    connection = http.client.HTTPConnection("127.0.0.1", running.settings.port, timeout=timeout_s)
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        said = response.read()
        return response.status, said, {k.lower(): v for k, v in response.getheaders()}
    except (OSError, http.client.HTTPException):
        return 0, b"", {}
    finally:
        connection.close()


def keep(out: Path, module: str, tables: list[Table], seconds: float) -> None:
    """Write one part of the results, and show it."""
    value = {
        "command": f"python -m tests.bench.hardening.{module}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no accelerator",
        "seconds": round(seconds),
        "tables": [
            {"title": t.title, "text": t.text, "columns": t.columns, "rows": t.rows} for t in tables
        ],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    for table in tables:
        print(f"\n{table.title}\n{table.text}")
        for row in (table.columns, *table.rows):
            print("  ", *row, sep=" | ")


def arguments(module: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every part has."""
    parser = argparse.ArgumentParser(description=description)
    where = Path(__file__).parents[3] / "docs" / "results" / "hardening" / f"{module}.json"
    parser.add_argument("--out", type=Path, default=where)
    return parser
