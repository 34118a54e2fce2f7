"""The client processes of a run: started, told, listened to, and never left behind.

Knows their lines of JSON, and no HTTP.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from loadtest.errors import WorkerError
from loadtest.hits import Column

_LINE_BYTES_MAX: Final = 1 << 20
_START_S: Final = 120.0  # for a process to be ready
_HEAD_START_S: Final = 0.3  # between "go" and the first instant
_LAST_WORDS: Final = 800  # characters of stderr
Tick = Callable[[Mapping[str, Any]], None]


@dataclass
class Member:
    """One process."""

    number: int
    process: asyncio.subprocess.Process
    out: Path
    err: Path
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    summary: dict[str, Any] | None = None

    def say(self, what: Mapping[str, Any]) -> None:
        """One line to its stdin; nothing where it has ended."""
        assert self.process.stdin is not None
        if not self.process.stdin.is_closing():
            self.process.stdin.write(json.dumps(what).encode() + b"\n")

    def failure(self) -> WorkerError:
        """With its last words."""
        words = self.err.read_text(errors="replace").strip()[-_LAST_WORDS:]
        return WorkerError(self.number, words or f"exit {self.process.returncode}")


class Crew:
    """All of them."""

    def __init__(self, folder: Path, tick: Tick) -> None:
        self._folder, self._tick = folder, tick
        self._members: list[Member] = []
        self._waiting: dict[int, tuple[set[int], asyncio.Future[None]]] = {}
        self._told = 0
        self._listening: set[asyncio.Task[None]] = set()

    async def order(self, orders: Sequence[Mapping[str, Any]]) -> None:
        """One order for each process, new ones where they are too few; returns when all are ready.

        Raises:
            WorkerError: one of them cannot begin.
        """
        while len(self._members) < len(orders):
            await self._hire(len(self._members))
        for member, order in zip(self._members, orders, strict=True):
            member.ready.clear()
            member.done.clear()
            member.summary = None
            member.say({**order, "number": member.number, "out": str(member.out)})
        for member in self._members:
            try:
                async with asyncio.timeout(_START_S):
                    await _either(member.ready, member.ended)
            except TimeoutError:
                reason = f"it was not ready within {_START_S:g} s"
                raise WorkerError(member.number, reason) from None
            if not member.ready.is_set():
                raise member.failure()

    async def _hire(self, number: int) -> None:
        """One more process."""
        out, err = self._folder / f"{number}.npz", self._folder / f"{number}.err"
        with err.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "loadtest.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=_LINE_BYTES_MAX,
                start_new_session=True,  # Ctrl-C is for the one that asks for their hits
            )
        member = Member(number, process, out, err)
        self._members.append(member)
        task = asyncio.get_running_loop().create_task(self._listen(member))
        self._listening.add(task)

    def go(self) -> float:
        """Let all begin at the same instant of `time.monotonic`, which is returned."""
        start = time.monotonic() + _HEAD_START_S
        for member in self._members:
            member.say({"do": "go", "start": start})
        return start

    async def tell(self, task: int, allowed: Sequence[int], generation: int) -> None:
        """What may answer for a task from now on; returns when all that still load know."""
        living = {m.number for m in self._members if not (m.ended.is_set() or m.done.is_set())}
        if not living:
            return
        self._told += 1
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[self._told] = (living, heard)
        for member in self._members:
            member.say(
                {
                    "do": "tell",
                    "id": self._told,
                    "task": task,
                    "allowed": list(allowed),
                    "generation": generation,
                }
            )
        await heard

    def stop(self) -> None:
        """Send nothing more; hits are still written."""
        for member in self._members:
            member.say({"do": "stop"})

    async def hits(self) -> tuple[list[dict[str, Column]], list[dict[str, Any]]]:
        """Columns and summary of every process, when all are done.

        Raises:
            WorkerError: one has no hits.
        """
        found, summaries = [], []
        for member in self._members:
            await _either(member.done, member.ended)
            if member.summary is None:
                raise member.failure()
            with np.load(member.out, allow_pickle=False) as held:
                found.append({name: held[name] for name in held.files})
            summaries.append(member.summary)
        return found, summaries

    async def close(self) -> None:
        """End whoever is still there."""
        for member in self._members:
            if member.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    member.process.kill()
            await member.process.wait()
        await asyncio.gather(*self._listening, return_exceptions=True)

    async def _listen(self, member: Member) -> None:
        assert member.process.stdout is not None
        with contextlib.suppress(ValueError):  # a line that is none: it will have no summary
            async for line in member.process.stdout:
                self._heard(member, json.loads(line))
        await member.process.wait()
        member.ended.set()
        self._deaf(member)

    def _deaf(self, member: Member) -> None:
        """Nobody waits for its ear any more."""
        for living, heard in self._waiting.values():
            living.discard(member.number)
            _settle(living, heard)

    def _heard(self, member: Member, said: dict[str, Any]) -> None:
        match said.pop("kind"):
            case "ready":
                member.ready.set()
            case "tick":
                self._tick(said)
            case "heard":
                living, heard = self._waiting[said["id"]]
                living.discard(member.number)
                _settle(living, heard)
            case "done":
                member.summary = said
                member.done.set()
                self._deaf(member)
            case other:
                raise WorkerError(member.number, f"it said {other!r}")


@asynccontextmanager
async def crew(tick: Tick = lambda _: None) -> AsyncIterator[Crew]:
    """A crew that is gone afterwards, with its files."""
    with tempfile.TemporaryDirectory(prefix="rootstock-loadtest-") as folder:
        found = Crew(Path(folder), tick)
        try:
            yield found
        finally:
            await found.close()


def _settle(living: set[int], heard: asyncio.Future[None]) -> None:
    if not living and not heard.done():
        heard.set_result(None)


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
