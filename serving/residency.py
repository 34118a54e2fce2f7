"""Where adapters are: store → host memory → slot. Knows the engine's forms, no task and no HTTP.

One load per digest at a time, however many ask. Bytes that fail validation are remembered by
digest and never fetched again; a store that cannot be reached only backs off. Nothing leaves a
slot or host memory while a batch uses it, and nothing is evicted before its successor is ready.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from adapters_store.adapter import Adapter
from adapters_store.admission import admit
from adapters_store.backbone import Backbone
from adapters_store.effect import Golden, golden_images
from adapters_store.errors import (
    AdapterError,
    EffectFailedError,
    StoreError,
    TaskMismatchError,
)
from adapters_store.manifest import Manifest
from serving.engine.engine import Engine, Prepared
from serving.errors import ClosingError
from serving.slots import SlotTable
from serving.telemetry import Telemetry

log = logging.getLogger(__name__)

_LOADERS: Final = 4
_BACK_OFF_S: Final = 1.0  # after the store could not be reached for a digest

Fetch = Callable[[str], bytes]  # digest → artifact


@dataclass(frozen=True, slots=True)
class Facts:
    """An adapter as a replica keeps it: what the door must know, and what the engine runs."""

    manifest: Manifest
    prepared: Prepared


class Residency:
    """Host tier and slots of one replica; threads may share it."""

    def __init__(
        self,
        backbone: Backbone,
        engine: Engine,
        fetch: Fetch,
        telemetry: Telemetry,
        *,
        slots: int,
        host_bytes: int,
    ) -> None:
        """Start empty.

        Args:
            backbone: pristine fp32 weights, for admission and the effect check.
            engine: for which adapters are prepared.
            fetch: gets an artifact by digest.
            telemetry: where hits, misses and loads are counted.
            slots: adapters on the device at once.
            host_bytes: prepared adapters kept in host memory.
        """
        self._spec, self._engine, self._fetch = backbone.spec, engine, fetch
        self._golden, self._lane = Golden(backbone), engine.lane()
        self._telemetry, self._host_bytes = telemetry, host_bytes
        self._pictures = golden_images(backbone.spec.input_size)
        self._lock = threading.Lock()  # guards everything below; never held while loading
        self._checking = threading.Lock()  # one effect check at a time: the lane is one thread's
        self._host: OrderedDict[str, Facts] = OrderedDict()  # least recently used first
        self._used_bytes = 0
        self._loading: dict[str, Future[Facts]] = {}
        self._failed: dict[str, AdapterError] = {}
        self._retry_at: dict[str, tuple[float, StoreError]] = {}
        self._slots: SlotTable[str] = SlotTable(slots)
        self._placed: dict[str, Prepared] = {}
        self._pool = ThreadPoolExecutor(_LOADERS, thread_name_prefix="rootstock-load")

    def get(self, digest: str) -> "Future[Facts]":
        """The adapter of this digest, from host memory or loaded, verified and prepared.

        The future is shared and cannot be cancelled. It raises:
            AdapterError: this digest will never be served here.
            StoreError: not just now; out of reach, or damaged there.
        """
        with self._lock:
            if facts := self._host.get(digest):
                self._host.move_to_end(digest)
                self._telemetry.count("rootstock_residency_lookups", tier="host", result="hit")
                return _done(facts)
            if error := self._failed.get(digest):
                return _broken(error)
            if running := self._loading.get(digest):
                return running
            until, refusal = self._retry_at.get(digest, (0.0, None))
            if refusal is not None and time.monotonic() < until:
                return _broken(refusal)
            self._telemetry.count("rootstock_residency_lookups", tier="host", result="miss")
            future = self._loading[digest] = _shared()
        try:
            self._pool.submit(self._load, digest, future, None)
        except RuntimeError:  # the pool is shut down
            self._abandon()
        return future

    def install(self, digest: str, data: bytes, task: str) -> Facts:
        """Verify and keep bytes that came with a publish, before they are in any store; blocking.

        Raises:
            AdapterError: with every fault; TaskMismatchError when they are another task's.
        """
        with self._lock:
            facts, future = self._host.get(digest), self._loading.get(digest)
            mine = facts is None and future is None
            if mine:
                future = self._loading[digest] = _shared()
        if mine and future is not None:
            self._load(digest, future, data)
        if facts is None and future is not None:
            facts = future.result()
        assert facts is not None
        if facts.manifest.task != task:
            raise TaskMismatchError(facts.manifest.task, task)
        return facts

    def refused(self, digest: str) -> bool:
        """Whether this digest is known never to be served here."""
        return digest in self._failed

    def slot(self, digests: Iterable[str]) -> dict[str, Prepared | Exception]:
        """Put adapters into slots and pin them there, for one batch; `release` them after it.

        Every digest must have been got before; one that left host memory since is loaded again.
        """
        found: dict[str, Prepared | Exception] = {}
        for digest in dict.fromkeys(digests):
            try:
                found[digest] = self._place(digest)
            except Exception as error:  # noqa: BLE001 (one adapter's trouble is not its neighbours')
                found[digest] = error
        return found

    def release(self, digests: Iterable[str]) -> None:
        """Take back one pin of each."""
        with self._lock:
            for digest in digests:
                self._slots.unpin(digest)

    def forget(self, digests: Iterable[str]) -> None:
        """Let adapters leave host memory that nobody is expected to ask for again."""
        with self._lock:
            for digest in digests:
                if facts := self._host.pop(digest, None):
                    self._used_bytes -= facts.prepared.nbytes
            self._show_host()

    def resident(self) -> tuple[str, ...]:
        """Digests in a slot."""
        with self._lock:
            return tuple(self._slots.held())

    def known(self) -> int:
        """Adapters in host memory."""
        return len(self._host)

    def close(self) -> None:
        """Stop loading; whoever still waits for a load is told."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._abandon()

    def check(self) -> None:
        """Verify the bookkeeping.

        Raises:
            AssertionError: it is broken.
        """
        with self._lock:
            self._slots.check()
            assert set(self._placed) == set(self._slots.held())
            assert self._used_bytes == sum(f.prepared.nbytes for f in self._host.values())
            assert not set(self._host) & set(self._failed)

    def _abandon(self) -> None:
        """End every load that will not be begun."""
        with self._lock:
            left = [self._loading.pop(digest) for digest in list(self._loading)]
        for future in left:
            future.set_exception(ClosingError())

    def _place(self, digest: str) -> Prepared:
        with self._lock:
            if self._slots.find(digest) is not None:
                self._slots.pin(digest)
                self._telemetry.count("rootstock_residency_lookups", tier="slot", result="hit")
                return self._placed[digest]
        self._telemetry.count("rootstock_residency_lookups", tier="slot", result="miss")
        prepared = self.get(digest).result().prepared
        # Ready on the device before anything has to leave, and verified there once.
        placed = prepared.to(self._engine.device)
        if placed.row is not prepared.row and placed.checksum() != prepared.checksum():
            raise EffectFailedError(digest[:16], ("its copy on the device differs",))
        with self._lock:
            claimed = self._slots.claim(digest)
            assert claimed is not None, "a batch never pins more than there are slots"
            _, evicted = claimed
            if evicted is not None:
                del self._placed[evicted]
                self._telemetry.count("rootstock_residency_evictions", tier="slot")
            self._placed[digest] = placed
            self._slots.pin(digest)
            self._telemetry.set("rootstock_resident_adapters", len(self._placed), tier="slot")
        return placed

    def _load(self, digest: str, future: "Future[Facts]", data: bytes | None) -> None:
        began = time.perf_counter()
        try:
            adapter = admit(self._fetch(digest) if data is None else data, self._spec)
            facts = Facts(adapter.manifest, self._engine.prepare(adapter))
            self._verify(adapter, facts.prepared)
        except AdapterError as error:
            log.warning("adapter refused", extra={"digest": digest, "reason": str(error)})
            self._telemetry.count("rootstock_adapter_loads", result="refused")
            if isinstance(error, EffectFailedError):
                self._telemetry.count("rootstock_effect_failures")
            with self._lock:
                if data is None:
                    self._failed[digest] = error
                del self._loading[digest]
            future.set_exception(error)
        except Exception as error:  # noqa: BLE001 (a waiting future must always end)
            refusal = error if isinstance(error, StoreError) else None
            self._telemetry.count("rootstock_adapter_loads", result="unavailable")
            with self._lock:
                if refusal is not None:
                    self._retry_at[digest] = (time.monotonic() + _BACK_OFF_S, refusal)
                del self._loading[digest]
            future.set_exception(error)
        else:
            self._telemetry.count("rootstock_adapter_loads", result="ok")
            self._telemetry.observe(
                "rootstock_adapter_load_seconds",
                time.perf_counter() - began,
                source="store" if data is None else "publish",
            )
            with self._lock:
                self._keep(digest, facts)
                self._failed.pop(digest, None)
                self._retry_at.pop(digest, None)
                del self._loading[digest]
            future.set_result(facts)

    def _verify(self, adapter: Adapter, prepared: Prepared) -> None:
        """The effect check, by the same code and weights that will serve."""
        with self._checking:
            placed = prepared.to(self._engine.device)
            answers = self._lane(self._pictures, [placed] * len(self._pictures))
            self._golden.check(adapter, np.stack(answers), self._engine.dtype)

    def _keep(self, digest: str, facts: Facts) -> None:
        """Into host memory; the least recently used leave until the budget holds again."""
        self._host[digest] = facts
        self._used_bytes += facts.prepared.nbytes
        while self._used_bytes > self._host_bytes and len(self._host) > 1:
            _, old = self._host.popitem(last=False)
            self._used_bytes -= old.prepared.nbytes
            self._telemetry.count("rootstock_residency_evictions", tier="host")
        self._show_host()

    def _show_host(self) -> None:
        self._telemetry.set("rootstock_resident_adapters", len(self._host), tier="host")
        self._telemetry.set("rootstock_resident_bytes", self._used_bytes, tier="host")


def _shared() -> "Future[Facts]":
    """A future that many wait for: running from the start, so that none of them can cancel it."""
    future: Future[Facts] = Future()
    future.set_running_or_notify_cancel()
    return future


def _done(facts: Facts) -> "Future[Facts]":
    future: Future[Facts] = Future()
    future.set_result(facts)
    return future


def _broken(error: Exception) -> "Future[Facts]":
    future: Future[Facts] = Future()
    future.set_exception(error)
    return future
