"""Host memory of one replica: how adapters come in, each once, and in which order.

Knows loads and their haste; no task, no slot and no HTTP. What a request waits for goes before
what is about to answer, and that before what nobody asked for yet: the last is brought in while
there is room and the engine can bear it, and is checked when the engine has nothing to do.
"""

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final

from adapters_store.errors import AdapterError, EffectFailedError, StoreError, TaskMismatchError
from serving.background import Background, Chore
from serving.books import Books
from serving.errors import ClosingError, QuarantinedError
from serving.loading import Facts, Loader
from serving.loads import Haste, Load, broken, done
from serving.memory import Tidier
from serving.quiet import Quiet
from serving.telemetry import Telemetry

log = logging.getLogger(__name__)

_BACK_OFF_S: Final = 1.0  # after the store could not be reached for a digest
_BACKGROUND: Final = 2  # threads
_STEP_S: Final = 0.2  # a busy engine is disturbed by a prefetch once in so long, for milliseconds
_CALM_S: Final = 0.25  # the engine has been idle for so long before an adapter is checked unasked
_THREADS: Final = {Haste.EXPECTED: 2, Haste.URGENT: 4}


class HostMemory:
    """Adapters in host memory and on their way there; threads may share it."""

    def __init__(self, loader: Loader, telemetry: Telemetry, quiet: Quiet, host_bytes: int) -> None:
        """Start empty.

        Args:
            loader: brings adapters in and proves them.
            telemetry: where hits, misses and loads are counted.
            quiet: whether somebody waits for the engine or for a load.
            host_bytes: prepared adapters kept.
        """
        self._loader, self._telemetry, self._quiet = loader, telemetry, quiet
        self._lock = threading.Lock()  # guards everything below; never held while loading
        self._books = Books(host_bytes)
        self._loading: dict[str, Load] = {}
        self._checks_unasked = False  # one at a time
        self._tidier = Tidier()
        self._background = Background(self._chore, _BACKGROUND)
        self._pools = {
            haste: ThreadPoolExecutor(count, f"rootstock-load-{haste.name.lower()}")
            for haste, count in _THREADS.items()
        }

    def get(self, digest: str, haste: Haste = Haste.URGENT) -> "Future[Facts]":
        """The adapter of this digest, from host memory or loaded, verified and prepared.

        The future is shared and cannot be cancelled. Hold on to what it gives until the batch has
        run. It raises:
            AdapterError: this digest will never be served here.
            StoreError: not just now; out of reach, or damaged there.

        Args:
            digest: of the artifact.
            haste: URGENT when a request waits, EXPECTED when one soon will.
        """
        with self._lock:
            facts = self._books.at_hand(digest)
            result = "miss" if facts is None else "hit"
            self._telemetry.count("rootstock_residency_lookups", tier="host", result=result)
            if facts is not None:
                known, evicted = digest in self._books.host, self._books.in_use(facts)
                if not known:
                    self._show(evicted)
                return done(facts)
            load = self._loading.get(digest)
            if load is None:
                if error := self._books.refusal(digest, time.monotonic()):
                    return broken(error)
                load = self._begin(digest, Haste.BRING)
            joins = not load.begun and haste > load.haste
            load.haste, load.forgotten = max(load.haste, haste), False
        if joins:  # in the line of its new haste; it runs where its turn comes first
            try:
                self._pools[haste].submit(self._run, digest, load)
            except RuntimeError:  # the pool is shut down
                self._end(digest, load, ClosingError())
        return load.future

    def prefetch(self, digests: Iterable[str]) -> None:
        """Bring adapters into host memory when convenient, as long as there is room."""
        with self._lock:
            for digest in digests:
                if load := self._loading.get(digest):
                    load.forgotten = False  # it was, and is pointed at again
                else:
                    self._books.wish((digest,))
        self._background.wake()

    def install(self, digest: str, data: bytes, task: str) -> Facts:
        """Verify and keep bytes that came with a publish, before they are in any store; blocking.

        Raises:
            AdapterError: with every fault; TaskMismatchError when they are another task's.
        """
        facts = None
        while facts is None:
            with self._lock:
                if error := self._books.quarantined(digest):
                    raise error  # no check that it could pass has anything to say of that
                facts, load = self._books.at_hand(digest), self._loading.get(digest)
                if facts is not None:
                    break
                if mine := load is None:
                    load = self._begin(digest, Haste.URGENT)
                load.haste, load.forgotten = Haste.URGENT, False
            if mine:
                self._run(digest, load, data)
            try:
                facts = load.future.result()
            except StoreError:  # of a load that others had begun; here are the bytes
                continue
        if facts.task != task:
            raise TaskMismatchError(facts.task, task)
        return facts

    def at_hand(self, digest: str) -> Facts | None:
        """What may answer and is in memory, whoever keeps it there."""
        with self._lock:
            return self._books.at_hand(digest)

    def refused(self, digest: str) -> bool:
        """Whether this digest is known never to be served here."""
        return self._books.has_failed(digest)

    def refusals(self) -> frozenset[str]:
        """Digests that are known never to be served here."""
        with self._lock:
            return self._books.failed

    def failure(self, digest: str) -> AdapterError | None:
        """Why a digest is known never to be served here; None: it may be."""
        return self._books.failure(digest)

    def quarantine(self, digest: str, error: QuarantinedError) -> None:
        """Serve this digest no longer, whoever holds it or loads it; until the process ends."""
        with self._lock:
            self._books.quarantine(digest, error)
            self._show()

    def quarantines(self) -> list[QuarantinedError]:
        """Of everything that is quarantined."""
        with self._lock:
            return self._books.quarantines()

    def forget(self, digests: Iterable[str]) -> None:
        """Let adapters go that nobody is expected to ask for again, now or when they arrive."""
        with self._lock:
            for digest in digests:
                if load := self._loading.get(digest):
                    load.forgotten = True  # may be waiting for a calm moment to be proven
                self._books.forget(digest)
            self._show()

    def known(self) -> int:
        """Adapters in host memory."""
        return len(self._books.host)

    def close(self) -> None:
        """Stop loading; whoever still waits for a load is told."""
        self._background.close()
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        for digest, load in list(self._loading.items()):
            self._end(digest, load, ClosingError())

    def check(self) -> None:
        """Verify the bookkeeping.

        Raises:
            AssertionError: it is broken.
        """
        with self._lock:
            self._books.check()

    def _begin(self, digest: str, haste: Haste) -> Load:
        self._books.unwish(digest)
        load = self._loading[digest] = Load(haste)
        return load

    def _chore(self) -> Chore | None:
        """What the background does next: bring one in, else check one."""
        with self._lock:
            while wished := self._books.wished():
                digest, tries = wished
                if digest not in self._loading:
                    load = self._begin(digest, Haste.BRING)
                    load.tries = tries
                    return partial(self._run, digest, load)
            unchecked = self._books.unchecked(besides=self._loading)
            if unchecked is None or self._checks_unasked:
                return None
            self._checks_unasked = True
            return partial(self._check_unasked, unchecked, self._begin(unchecked, Haste.PROVE))

    def _check_unasked(self, digest: str, load: Load) -> None:
        try:
            self._run(digest, load)
        finally:
            self._checks_unasked = False

    def _run(self, digest: str, load: Load, data: bytes | None = None) -> None:
        """One load, from where the adapter is to where the load wants it; never raises."""
        with self._lock:
            if load.begun:
                return
            load.begun, hurries = True, load.haste >= Haste.EXPECTED
        if hurries:
            self._quiet.begin()
        began = time.perf_counter()
        try:
            facts = self._load(digest, load, data, hurries=hurries)
        except Exception as error:  # noqa: BLE001 (a waiting future must always end)
            self._give_up(digest, load, error, remember=data is None)
        else:
            if facts is not None:
                self._telemetry.count("rootstock_adapter_loads", result="ok")
                load.future.set_result(facts)
            if hurries:
                self._telemetry.observe(
                    "rootstock_adapter_load_seconds",
                    time.perf_counter() - began,
                    source="store" if data is None else "publish",
                )
        finally:
            if hurries:
                self._quiet.end()

    def _load(self, digest: str, load: Load, data: bytes | None, *, hurries: bool) -> Facts | None:
        """Bring, and prove if that is asked for by then; None: it is not."""
        if not hurries and load.haste == Haste.BRING:
            self._pause(load, _STEP_S)
        with self._lock:
            facts, promise = self._books.host.find(digest), self._books.unproven.get(digest)
            if promise is None and load.haste == Haste.PROVE:  # it had to leave meanwhile
                del self._loading[digest]
                return None
        if facts is None or promise is None:
            facts, promise = self._loader.bring(digest, data)
            self._tidier.loaded()
        with self._lock:
            self._hold_to_quarantine(digest)
            if load.haste == Haste.BRING:
                del self._loading[digest]
                if not load.forgotten:
                    self._books.set_aside(facts, promise)
                    self._show()
                return None
            passed = self._books.has_passed(digest)
        if not passed:
            asked = load.haste >= Haste.EXPECTED
            pause = None if asked else partial(self._pause, load, float("inf"))
            self._loader.prove(facts, promise, pause)
        with self._lock:
            self._hold_to_quarantine(digest)
            asked = load.haste >= Haste.EXPECTED  # what is not pushes nobody out
            host = self._books.host  # from which it may have had to go meanwhile
            fits = digest in host or host.has_room(facts.prepared.nbytes)
            keep = not load.forgotten and (asked or fits)
            del self._loading[digest]
            self._show(evicted=self._books.passed(facts, keep=keep))
        return facts

    def _hold_to_quarantine(self, digest: str) -> None:
        """What was quarantined while it was being loaded does not come back.

        Raises:
            QuarantinedError
        """
        if error := self._books.quarantined(digest):
            raise error

    def _pause(self, load: Load, patience_s: float) -> None:
        """Let those go first whom somebody waits for; over at once when that is this load."""
        calm_s = 0.0 if load.haste == Haste.BRING else _CALM_S

        def over() -> bool:
            return load.haste >= Haste.EXPECTED or self._background.closed

        self._quiet.wait(calm_s, patience_s, over)
        if self._background.closed:
            raise ClosingError

    def _give_up(self, digest: str, load: Load, error: Exception, *, remember: bool) -> None:
        refused = isinstance(error, AdapterError)
        if refused:
            log.warning("adapter refused", extra={"digest": digest, "reason": str(error)})
        surprise = not isinstance(error, AdapterError | StoreError | ClosingError)
        if surprise:
            log.error("adapter not loaded", extra={"digest": digest}, exc_info=error)
        if isinstance(error, EffectFailedError):
            self._telemetry.count("rootstock_effect_failures")
        result = "refused" if refused else "unavailable"
        self._telemetry.count("rootstock_adapter_loads", result=result)
        with self._lock:
            if isinstance(error, AdapterError):
                self._books.refused(digest, error, remember=remember)
            elif isinstance(error, StoreError):
                self._books.unreachable(digest, error, time.monotonic() + _BACK_OFF_S)
            elif surprise:  # not to be checked again and again; whoever asks has it loaded afresh
                self._books.forget(digest)
            self._show()
        self._end(digest, load, error)
        if load.haste == Haste.BRING and isinstance(error, StoreError):
            self._background.rest(_BACK_OFF_S)
            with self._lock:
                self._books.wish((digest,), load.tries + 1)

    def _end(self, digest: str, load: Load, error: Exception) -> None:
        with self._lock:
            if self._loading.get(digest) is not load:
                return
            del self._loading[digest]
        load.future.set_exception(error)

    def _show(self, evicted: int = 0) -> None:
        if evicted:
            self._telemetry.count("rootstock_residency_evictions", evicted, tier="host")
        host = self._books.host
        self._telemetry.set("rootstock_resident_adapters", len(host), tier="host")
        self._telemetry.set("rootstock_resident_bytes", host.used_bytes, tier="host")
        self._telemetry.set("rootstock_resident_unproven", len(self._books.unproven))
