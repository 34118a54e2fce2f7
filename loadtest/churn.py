"""Changes of the catalog while the load runs, through our API, and what each of them promises.

Before a change begins all clients are told what may answer from then on; after it, what may.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from loadtest.discovery import answered
from loadtest.errors import ScenarioError, TargetError
from loadtest.promises import ANY, GONE
from loadtest.scenario import Scenario
from loadtest.targets.protocol import UNREADABLE
from loadtest.wire import Reply, ask, origin_of

_HEADER_BYTES_MAX: Final = 16 * 1024 * 1024
Tell = Callable[[int, Sequence[int], int], Awaitable[None]]


@dataclass
class Subject:
    """A task that is changed, as far as this tester knows."""

    place: int  # in the plan's names
    name: str
    releases: list[int]
    active: int
    artifacts: list[bytes] = field(default_factory=list)
    published: int = 0
    generation: int = 0  # that requests demand
    gone: bool = False  # it may be, until it was published again

    def under_way(self) -> tuple[int, ...]:
        """What may answer while a change is made."""
        return (ANY, GONE) if self.gone else (ANY,)


class Churner:
    """Publishes, activates, rolls back and retires, each kind at its own pace."""

    def __init__(self, scenario: Scenario, subjects: list[Subject]) -> None:
        self._scenario, self._subjects = scenario, subjects
        self._origin = origin_of(scenario.target.url)
        self._turn = 0
        self._lock = asyncio.Lock()
        self._ended = False
        self._start = 0.0
        self.changes: list[dict[str, Any]] = []

    @classmethod
    async def prepared(cls, scenario: Scenario, names: Sequence[str]) -> "Churner":
        """Look at the tasks that will change.

        Raises:
            ScenarioError: there is nothing to change them with.
            TargetError, OSError
        """
        place = {name: i for i, name in enumerate(names)}
        given: dict[str, list[bytes]] = {}
        if scenario.churn.artifacts is not None:
            given = artifacts_of(Path(scenario.churn.artifacts))
        wanted = [name for name in names if name in given] if given else list(names)[:64]
        subjects = []
        for name in wanted:
            shown = await answered(scenario, "GET", f"/v1/tasks/{quote(name, safe='')}")
            try:
                releases = [int(r["release"]) for r in shown["releases"] if not r["retired"]]
                active = int(shown["active"] or GONE)
            except (LookupError, TypeError, ValueError):
                raise TargetError(scenario.target.url, f"{name}: it shows no releases") from None
            subject = Subject(place[name], name, releases, active, gone=active == GONE)
            subject.artifacts = given.get(name, [])
            subjects.append(subject)
        churn = scenario.churn
        if (churn.publish_every_s or churn.retire_every_s) and not any(
            s.artifacts for s in subjects
        ):
            fault = f"{churn.artifacts} holds no artifact of a task of this run"
            raise ScenarioError(scenario.name, (fault,))
        if not churn.publish_every_s and not any(len(s.releases) > 1 for s in subjects):
            fault = "no task has two releases to go to and fro between"
            raise ScenarioError(scenario.name, (fault,))
        return cls(scenario, subjects)

    async def run(self, tell: Tell, start: float) -> None:
        """Change until the end; `start` is an instant of `time.monotonic`."""
        churn = self._scenario.churn
        self._start = start
        kinds = (
            (churn.publish_every_s, self._publish),
            (churn.activate_every_s, self._activate),
            (churn.retire_every_s, self._retire),
        )
        await asyncio.gather(
            *(self._paced(every, act, tell, start) for every, act in kinds if every)
        )

    async def end(self) -> None:
        """Begin no more changes, and let the one that is under way be finished.

        A task that was retired is published again: a load test leaves none behind that is gone.
        """
        self._ended = True
        async with self._lock:
            pass

    async def _paced(
        self,
        every_s: float,
        act: Callable[[Tell], Awaitable[None]],
        tell: Tell,
        start: float,
    ) -> None:
        due = start + every_s
        while True:
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            async with self._lock:  # one change after another, so that promises are plain
                if self._ended:
                    return
                await act(tell)
            due = max(due + every_s, time.monotonic())

    async def _publish(self, tell: Tell) -> None:
        subject = self._next(lambda s: bool(s.artifacts))
        if subject is not None:
            await tell(subject.place, subject.under_way(), subject.generation)
            await self._put(subject, tell)

    async def _put(self, subject: Subject, tell: Tell) -> None:
        """The next artifact; one that is a release already is then made active."""
        data = subject.artifacts[subject.published % len(subject.artifacts)]
        subject.published += 1
        value = await self._changed("publish", subject, "PUT", "", data)
        if value is None:
            return
        release = value["release"]
        known = release in subject.releases
        if not known:
            subject.releases.append(release)
        if known and release != subject.active:
            await self._made_active(subject, release, tell)
        else:
            await self._promised(subject, release, value["generation"], tell)

    async def _activate(self, tell: Tell) -> None:
        subject = self._next(lambda s: len(s.releases) > 1)
        if subject is not None:
            older = [r for r in subject.releases if r < subject.active]
            release = max(older) if older else max(subject.releases)
            await self._made_active(subject, release, tell)

    async def _made_active(self, subject: Subject, release: int, tell: Tell) -> None:
        await tell(subject.place, subject.under_way(), subject.generation)
        kind = "rollback" if release < subject.active else "activate"
        body = json.dumps({"release": release, "why": "load test"}).encode()
        value = await self._changed(kind, subject, "POST", ":activate", body)
        if value is not None:
            await self._promised(subject, release, value["generation"], tell)

    async def _retire(self, tell: Tell) -> None:
        """And back again, by publishing."""
        subject = self._next(lambda s: bool(s.artifacts))
        if subject is None:
            return
        subject.gone = True  # even where the change is refused: an answer may have been lost
        await tell(subject.place, subject.under_way(), subject.generation)
        value = await self._changed("retire", subject, "DELETE", "")
        if value is None:
            return
        subject.releases = []
        await self._promised(subject, GONE, value["generation"], tell)
        await tell(subject.place, subject.under_way(), subject.generation)
        await self._put(subject, tell)

    async def _promised(self, subject: Subject, release: int, generation: int, tell: Tell) -> None:
        """What holds from now on, for whoever demands it."""
        subject.active, subject.gone = release, release == GONE
        if self._scenario.churn.min_generation:
            subject.generation = generation
            await tell(subject.place, (release,), generation)

    def _next(self, fits: Callable[[Subject], bool]) -> Subject | None:
        """Tasks take turns."""
        for _ in self._subjects:
            subject = self._subjects[self._turn % len(self._subjects)]
            self._turn += 1
            if fits(subject):
                return subject
        return None

    async def _changed(
        self, kind: str, subject: Subject, method: str, action: str, body: bytes = b""
    ) -> dict[str, int] | None:
        """Release and generation that it led to; None where it was refused, or its answer is none.

        It is taken down either way.
        """
        media = "application/json" if action else "application/octet-stream"
        path = f"/v1/tasks/{quote(subject.name, safe='')}{action}"
        headers = {"Content-Type": media, **self._scenario.target.headers}
        began = time.monotonic()
        reply = await ask(
            self._origin,
            method,
            path,
            headers=headers,
            body=body,
            timeout_s=self._scenario.timeout_s,
        )
        took_ms = 1000 * (time.monotonic() - began)
        status = reply.status if isinstance(reply, Reply) else 0
        value = _made(reply) if isinstance(reply, Reply) and 200 <= status < 300 else None
        self.changes.append(
            {
                "kind": kind,
                "task": subject.name,
                "at": began - self._start,
                "took_ms": took_ms,
                "status": status,
                "made": value is not None,
            }
        )
        return value


def _made(reply: Reply) -> dict[str, int] | None:
    """What the answer to a change says of it; None where it does not."""
    try:
        value = json.loads(reply.body)
        return {"generation": int(value["generation"]), "release": int(value.get("release", GONE))}
    except UNREADABLE:
        return None


def artifacts_of(folder: Path) -> dict[str, list[bytes]]:
    """Artifacts of a folder by task, in the order of their names.

    Raises:
        ScenarioError, OSError
    """
    found: dict[str, list[bytes]] = {}
    for file in sorted(folder.glob("**/*.safetensors")):
        data = file.read_bytes()
        found.setdefault(task_of(data, file), []).append(data)
    return found


def task_of(data: bytes, file: Path) -> str:
    """The task that an artifact's manifest names.

    Raises:
        ScenarioError: it is no artifact.
    """
    size = min(int.from_bytes(data[:8], "little"), _HEADER_BYTES_MAX)
    try:
        header = json.loads(data[8 : 8 + size])
        return str(json.loads(header["__metadata__"]["manifest"])["task"])
    except (ValueError, KeyError, TypeError):
        raise ScenarioError(str(file), ("it is no artifact",)) from None
