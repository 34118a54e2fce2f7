"""Adapters on the device: who has a slot, and that nobody leaves it while a batch runs.

Knows the engine's forms and the slot table; where adapters come from is not its matter. A slot
holds on to its adapter's facts, so that what is on the device can also be answered for.
"""

import threading
from collections.abc import Iterable

from adapters_store.errors import EffectFailedError
from serving.engine.engine import Engine
from serving.engine.prepared import Prepared
from serving.loading import Facts
from serving.slots import SlotTable
from serving.telemetry import Telemetry


class Placing:
    """The slots of one device; threads may share it."""

    def __init__(
        self, engine: Engine, telemetry: Telemetry, slots: int, slot_bytes: int | None
    ) -> None:
        """Every slot is free.

        Args:
            engine: whose device it is.
            telemetry: where hits, misses and evictions are counted.
            slots: adapters on the device at once.
            slot_bytes: what they may take; None: anything.
        """
        self._engine, self._telemetry = engine, telemetry
        self._lock = threading.Lock()  # never held while copying
        self._table: SlotTable[str] = SlotTable(slots, slot_bytes)
        self._placed: dict[str, tuple[Facts, Prepared]] = {}
        self._doomed: set[str] = set()  # in a slot that is free to go once no batch uses it

    def pin(self, digest: str) -> Prepared | None:
        """What is in the slot of this digest, now pinned there; None if it has none."""
        with self._lock:
            found = self._pinned(digest)
        result = "miss" if found is None else "hit"
        self._telemetry.count("rootstock_residency_lookups", tier="slot", result=result)
        return found

    def place(self, facts: Facts) -> Prepared:
        """Copy an adapter into a slot and pin it there.

        Raises:
            EffectFailedError: the copy on the device is not what was copied.
        """
        # Ready on the device before anything has to leave, and verified there once.
        prepared = facts.prepared
        placed = self._engine.place(prepared)
        if placed.row.device != prepared.row.device and placed.checksum() != prepared.checksum():
            raise EffectFailedError(facts.task, ("its copy on the device differs",))
        with self._lock:
            if (other := self._pinned(facts.digest)) is not None:
                return other  # another thread was faster
            claimed = self._table.claim(facts.digest, placed.nbytes)
            assert claimed is not None, "a batch never pins more than there are slots"
            self._evict(claimed[1])
            self._placed[facts.digest] = (facts, placed)
            self._show()
        return placed

    def release(self, digests: Iterable[str]) -> None:
        """Take back one pin of each."""
        with self._lock:
            for digest in digests:
                self._evict(self._table.unpin(digest))
                if digest in self._doomed:
                    self._leave(digest)
            self._show()

    def drop(self, digests: Iterable[str]) -> None:
        """Free the slots of these digests; one that is in use, as soon as it no longer is."""
        with self._lock:
            for digest in digests:
                if digest in self._placed:
                    self._doomed.add(digest)
                    self._leave(digest)
            self._show()

    def resident(self) -> tuple[str, ...]:
        """Digests in a slot."""
        with self._lock:
            return tuple(self._table.held())

    def check(self) -> None:
        """Verify the bookkeeping.

        Raises:
            AssertionError: it is broken.
        """
        with self._lock:
            self._table.check()
            assert set(self._placed) == set(self._table.held())
            assert self._doomed <= self._table.pinned()
            assert all(digest == facts.digest for digest, (facts, _) in self._placed.items())
            assert self._table.used_bytes == sum(p.nbytes for _, p in self._placed.values())

    def _pinned(self, digest: str) -> Prepared | None:
        if self._table.find(digest) is None:
            return None
        self._table.pin(digest)
        return self._placed[digest][1]

    def _leave(self, digest: str) -> None:
        if self._table.drop(digest):
            del self._placed[digest]
            self._doomed.discard(digest)

    def _evict(self, digests: Iterable[str]) -> None:
        for digest in digests:
            del self._placed[digest]
            self._doomed.discard(digest)
            self._telemetry.count("rootstock_residency_evictions", tier="slot")

    def _show(self) -> None:
        self._telemetry.set("rootstock_resident_adapters", len(self._placed), tier="slot")
        self._telemetry.set("rootstock_resident_bytes", self._table.used_bytes, tier="slot")
