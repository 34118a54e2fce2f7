"""Every process of a server that somebody else wrote: found, weighed, ended. Linux only.

A server may fork, lead sessions of its own and leave orphans. Its processes carry a variable in
their environment; those that write over it, as Ray's do, are known by their parents and sessions.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARK: Final = "ROOTSTOCK_PEERS_RUN"
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """What is known of one that lives."""

    pid: int
    parent: int
    session: int
    marked: bool


class Family:
    """The processes of one server, also after its first one has ended."""

    def __init__(self, root: int, mark: str) -> None:
        """`root` leads a session; `mark` is the value of MARK in its environment."""
        self._mark = mark
        self._sessions = {root}

    def living(self) -> list[int]:
        """Whoever belongs to it now."""
        table = {process.pid: process for process in _processes(self._mark)}
        found = members(table, self._sessions)
        self._sessions |= {pid for pid in found if table[pid].session == pid}
        return sorted(found)

    def pss_bytes(self) -> int:
        """Memory of all: what processes share is counted once."""
        return sum(_pss_bytes(pid) for pid in self.living())

    def end(self, timeout_s: float) -> bool:
        """Kill all that are left; whether none is."""
        deadline = time.monotonic() + timeout_s
        while left := self.living():
            if time.monotonic() > deadline:
                return False
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        return True


def members(table: Mapping[int, Process], sessions: set[int]) -> set[int]:
    """Those that are marked, are in one of the sessions, or descend from one of these."""
    found = {p.pid for p in table.values() if p.marked or p.session in sessions}
    while True:
        led = sessions | {pid for pid in found if table[pid].session == pid}
        more = {p.pid for p in table.values() if p.parent in found or p.session in led}
        if more <= found:
            return found
        found |= more


def free_bytes() -> int:
    """Memory that could be had now."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _processes(mark: str) -> Iterator[Process]:
    wanted = f"{MARK}={mark}".encode()
    for entry in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone by now, or somebody else's
            words = (entry / "stat").read_text().rpartition(")")[2].split()
            state, parent, session, threads = words[0], words[1], words[3], words[17]
            if state in "ZX" and int(threads) <= 1:
                continue
            marked = False
            with contextlib.suppress(PermissionError):
                marked = wanted in (entry / "environ").read_bytes().split(b"\0")
            yield Process(int(entry.name), int(parent), int(session), marked)


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
