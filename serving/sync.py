"""Following the log: one thread that keeps a replica's view of the catalog current.

Knows the store and where adapters come in, no request. A new view is swapped in whole, after the
releases that it makes active in the place of others have been loaded and verified, so requests
never wait for a release to arrive. What is active or pointed at for the first time is brought in
meanwhile.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from adapters_store.catalog import Catalog, Release, TaskState
from adapters_store.errors import RootstockError
from adapters_store.store import AdapterStore
from serving.telemetry import Telemetry
from serving.types import Arriving

log = logging.getLogger(__name__)

_RECENT: Final = 4  # releases of a task that stay in host memory though nothing points at them


@dataclass(slots=True)
class Passed:
    """By task, the live releases that were active and passed here, the last first; a few."""

    # never altered, only replaced
    releases: Mapping[str, tuple[Release, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """What a replica knows of the catalog; swapped as a whole.

    Only `verified` goes on meanwhile: that a release is loaded late changes nothing in the log.
    """

    catalog: Catalog = Catalog()  # noqa: RUF009 (frozen)
    blocked: str = ""  # why the log cannot be read further, when it cannot
    passed: Passed = field(default_factory=Passed)

    @property
    def verified(self) -> Mapping[str, tuple[Release, ...]]:
        """By task, the releases that were active and passed here, the last first."""
        return self.passed.releases


class Follower:
    """Polls the log, is nudged, and can be asked to catch up."""

    def __init__(
        self,
        store: AdapterStore,
        residency: Arriving,
        telemetry: Telemetry,
        *,
        poll_s: float,
        load_s: float,
    ) -> None:
        """Nothing is read yet; `start` does.

        Args:
            store: whose log is followed.
            residency: has loaded what becomes active.
            telemetry: where generation and lag are shown.
            poll_s: between looks at the log.
            load_s: for how long a new view waits for the releases that it makes active.
        """
        self._store, self._residency, self._telemetry = store, residency, telemetry
        self._poll_s, self._load_s = poll_s, load_s
        self._view = View()
        self._stepping = threading.Lock()  # one look at the log at a time; may be held for long
        self._swapping = threading.Lock()  # around reading and replacing the view; never for long
        self._applied = threading.Condition()
        self._nudged = threading.Event()
        self._stopped = False
        self._unreachable = "the log has not been read yet"
        self._thread = threading.Thread(target=self._run, name="rootstock-follow", daemon=True)

    @property
    def view(self) -> View:
        """The newest view; grab it once per request."""
        return self._view

    @property
    def state(self) -> str:
        """How it stands with the log, in a word that names no address."""
        if self._unreachable:
            return "unreachable"
        return "blocked" if self._view.blocked else "ok"

    @property
    def ever_read(self) -> bool:
        """Whether the log was read at least once."""
        return self._view.catalog.generation > 0 or not self._unreachable

    def start(self) -> None:
        """Catch up once, then keep following; an unreachable store is tried again and again."""
        self.catch_up()
        self._thread.start()

    def nudge(self) -> None:
        """Look at the log now, without waiting for it."""
        self._nudged.set()

    def catch_up(self) -> int:
        """Read the log to its end and apply it; the generation that is applied then."""
        with self._stepping:
            try:
                caught = self._store.catch_up(self._view.catalog)
            except RootstockError as error:
                if not self._unreachable:
                    log.warning("store unreachable", extra={"reason": str(error)})
                self._unreachable = str(error)
                self._telemetry.set("rootstock_follower_unreachable", 1)
                return self._view.catalog.generation
            self._unreachable = ""
            self._telemetry.set("rootstock_follower_unreachable", 0)
            blocked = "" if caught.blocked is None else str(caught.blocked)
            self._telemetry.set("rootstock_follower_blocked", int(bool(blocked)))
            known = self._view
            if (caught.catalog.generation, blocked) != (known.catalog.generation, known.blocked):
                self._apply(caught.catalog, blocked)
            return self._view.catalog.generation

    def ensure(self, generation: int, timeout_s: float) -> bool:
        """Whether `generation` is applied, having caught up if it was not; blocking."""
        if self._view.catalog.generation >= generation:
            return True
        deadline = time.monotonic() + timeout_s
        with self._applied:
            while self._view.catalog.generation < generation:
                left = deadline - time.monotonic()
                if left <= 0 or self._stopped:
                    return False
                self._nudged.set()
                self._applied.wait(min(left, 0.2))
        return True

    def passed(self, task: str, digest: str) -> None:
        """Note that the task's active release was loaded and verified on demand."""
        known = self._view.verified.get(task)
        if known and known[0].digest == digest:
            return
        with self._swapping:  # the view may be another by now
            view = self._view
            state = view.catalog.tasks.get(task)
            release = None if state is None else _active(state)
            if release is not None and release.digest == digest:
                passed = _with(view.verified.get(task, ()), release)
                view.passed.releases = {**view.verified, task: passed}

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop following."""
        self._stopped = True
        self._nudged.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped:
            self._nudged.wait(self._poll_s)
            self._nudged.clear()
            try:
                if not self._stopped:
                    self.catch_up()
            except Exception:  # whatever it was, the next look may succeed
                log.exception("the log could not be followed")

    def _apply(self, catalog: Catalog, blocked: str) -> None:
        """Load what became active in the place of another, then let the new view answer."""
        before = self._view.catalog
        changed = [s for s in catalog.tasks.values() if s.generation > before.generation]
        changed.sort(key=lambda state: -state.generation)  # the newest first, should memory end
        fine = self._replaced(changed, before)
        # Nobody waits for these yet; requests load at once what they need.
        self._residency.prefetch(r.digest for s in changed if (r := _active(s)) is not None)
        self._residency.prefetch(r.digest for s in changed for r in _pointed(s))
        with self._applied, self._swapping:
            known = self._view.verified
            passed = {s.name: _standing(known.get(s.name, ()), s, fine) for s in changed}
            verified = {
                name: releases
                for name, releases in {**known, **passed}.items()
                if releases and name in catalog.tasks and not catalog.tasks[name].retired
            }
            self._view = View(catalog, blocked, Passed(verified))
            self._applied.notify_all()
        gone = (_left_behind(s, before.tasks.get(s.name), verified) for s in changed)
        self._residency.forget(chain.from_iterable(gone))
        self._telemetry.set("rootstock_generation", catalog.generation)
        log.info("catalog applied", extra={"generation": catalog.generation})

    def _replaced(self, changed: Sequence[TaskState], before: Catalog) -> dict[str, Release]:
        """What passed, of the tasks that another release answered until now."""
        until = time.monotonic() + self._load_s
        now = {s.name: r for s in changed if (r := _active(s)) is not None}
        older = {
            name: was
            for name, release in now.items()
            if (state := before.tasks.get(name)) is not None
            and (was := _active(state)) is not None
            and was.digest != release.digest
        }
        fine = self._passing({n: now[n] for n in older}, until)
        # One that does not pass leaves the one before it answering, which nobody may have asked
        # for yet: then it has not been verified either.
        known = self._view.verified
        sure = {s.name for s in changed if _standing(known.get(s.name, ()), s, fine)}
        unsure = {n: r for n, r in older.items() if n not in sure}
        return self._passing(unsure, until) | fine

    def _passing(self, releases: Mapping[str, Release], until: float) -> dict[str, Release]:
        loading = {name: self._residency.expect(r.digest) for name, r in releases.items()}
        wait(loading.values(), max(0.0, until - time.monotonic()))
        return {name: releases[name] for name, future in loading.items() if _fine(future)}


def _active(state: TaskState) -> Release | None:
    return None if state.retired or state.active is None else state.find(state.active)


def _pointed(state: TaskState) -> Iterable[Release]:
    """Releases that aliases and splits send requests to."""
    numbers = {*state.aliases.values(), *state.split}
    return () if state.retired else (r for n in numbers if (r := state.find(n)) is not None)


def _left_behind(
    state: TaskState, before: TaskState | None, verified: Mapping[str, Sequence[Release]]
) -> set[str]:
    """Digests of releases that nothing points at, and that no request on its way may still want.

    The newest few stay: after quick publishes, requests routed to them wait in the queue. So does
    the one that answered until this change. Bytes may come back as another release: what counts
    is the digest.
    """
    kept = {*state.aliases.values(), *state.split, state.active}
    kept |= {r.number for r in state.releases[-_RECENT:]}
    if before is not None:
        kept.add(before.active)
    if state.name in verified:
        kept.add(verified[state.name][0].number)
    if state.retired:
        return {r.digest for r in state.releases}
    wanted = {r.digest for r in state.releases if r.number in kept}
    return {r.digest for r in state.releases} - wanted


def _with(known: Sequence[Release], release: Release) -> tuple[Release, ...]:
    """One more that passed; what passed before it may have to stand in for it one day."""
    others = (r for r in known if r.digest != release.digest)
    return (release, *others)[:_RECENT]


def _standing(
    known: Sequence[Release], state: TaskState, fine: Mapping[str, Release]
) -> tuple[Release, ...]:
    """Releases of a task that passed and that the catalog still holds: none that was retired."""
    new = fine.get(state.name)
    passed = known if new is None else _with(known, new)
    return tuple(r for r in passed if state.find(r.number) is not None)


def _fine(future: "Future[Any]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
