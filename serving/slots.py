"""Which adapter is in which slot. Pure bookkeeping: knows no tensor and no thread.

Invariant: every slot is free or holds one key; a key holds at most one slot; only held slots are
pinned; free + held = all; the bytes are within the budget, or only pinned keys and at most one
more are held. `check()` verifies it.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Held:
    slot: int
    nbytes: int
    pins: int = 0


class SlotTable(Generic[K]):
    """A fixed number of slots and of bytes, least recently used first out, pinned ones never."""

    def __init__(self, slots: int, most_bytes: int | None = None) -> None:
        """All free at first. Numbered from 1: slot 0 is the identity and is never handed out.

        Args:
            slots: how many keys at once.
            most_bytes: what they may weigh together; only keys that are pinned at one time, or one
                key alone, may weigh more. None: anything.
        """
        self._slots, self._most_bytes = slots, most_bytes
        self._free = list(range(slots, 0, -1))
        self._held: OrderedDict[K, _Held] = OrderedDict()  # least recently used first
        self.used_bytes = 0

    def find(self, key: K) -> int | None:
        """The slot of a key, which then counts as just used."""
        held = self._held.get(key)
        if held is None:
            return None
        self._held.move_to_end(key)
        return held.slot

    def claim(self, key: K, nbytes: int = 0) -> tuple[int, tuple[K, ...]] | None:
        """A pinned slot for a new key, and who had to leave; None when every slot is pinned."""
        if key in self._held:
            raise KeyError(key)
        gone = list[K]()
        if not self._free:
            oldest = self._oldest()
            if oldest is None:
                return None
            self._leave(oldest, gone)
        slot = self._free.pop()
        self._held[key] = _Held(slot, nbytes, pins=1)
        self.used_bytes += nbytes
        self._shrink(gone)
        return slot, tuple(gone)

    def pin(self, key: K) -> None:
        """Keep a held key in its slot until it is unpinned as often."""
        self._held[key].pins += 1

    def unpin(self, key: K) -> tuple[K, ...]:
        """Take one pin back; who had to leave now that they may."""
        held = self._held[key]
        if not held.pins:
            raise KeyError(key)
        held.pins -= 1
        gone = list[K]()
        self._shrink(gone)
        return tuple(gone)

    def drop(self, key: K) -> bool:
        """Free a key's slot; False: it has none, or it is pinned there."""
        held = self._held.get(key)
        if held is None or held.pins:
            return False
        self._leave(key, [])
        return True

    def held(self) -> dict[K, int]:
        """Slot by key, least recently used first."""
        return {key: held.slot for key, held in self._held.items()}

    def pinned(self) -> frozenset[K]:
        """Keys that must stay."""
        return frozenset(key for key, held in self._held.items() if held.pins)

    def check(self) -> None:
        """Verify the invariant.

        Raises:
            AssertionError: it is broken.
        """
        slots = sorted([*self._free, *(held.slot for held in self._held.values())])
        assert slots == list(range(1, self._slots + 1))
        assert self.used_bytes == sum(held.nbytes for held in self._held.values())
        assert all(held.pins >= 0 for held in self._held.values())
        if self._most_bytes is not None and self.used_bytes > self._most_bytes:
            loose = len(self._held) - len(self.pinned())
            assert loose == 0 or len(self._held) == 1

    def _shrink(self, gone: list[K]) -> None:
        """Let the oldest leave until the budget holds, or only one or pinned ones are left."""
        if self._most_bytes is None:
            return
        while self.used_bytes > self._most_bytes and len(self._held) > 1:
            oldest = self._oldest()
            if oldest is None:
                return
            self._leave(oldest, gone)

    def _oldest(self) -> K | None:
        return next((key for key, held in self._held.items() if not held.pins), None)

    def _leave(self, key: K, gone: list[K]) -> None:
        held = self._held.pop(key)
        self._free.append(held.slot)
        self.used_bytes -= held.nbytes
        gone.append(key)
