"""Which adapter is in which slot. Pure bookkeeping: knows no tensor and no thread.

Invariant: every slot is free or holds one key; a key holds at most one slot; only held slots are
pinned; free + held = all. `check()` verifies it.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class SlotTable(Generic[K]):
    """A fixed number of slots, least recently used first out, pinned ones never."""

    def __init__(self, slots: int) -> None:
        """All free at first. Numbered from 1: slot 0 is the identity and is never handed out."""
        self._slots = slots
        self._free = list(range(slots, 0, -1))
        self._held: OrderedDict[K, int] = OrderedDict()  # least recently used first
        self._pins: dict[K, int] = {}

    def find(self, key: K) -> int | None:
        """The slot of a key, which then counts as just used."""
        slot = self._held.get(key)
        if slot is not None:
            self._held.move_to_end(key)
        return slot

    def claim(self, key: K) -> tuple[int, K | None] | None:
        """A slot for a new key, and who had to leave it; None when every slot is pinned."""
        if key in self._held:
            raise KeyError(key)
        if self._free:
            self._held[key] = self._free.pop()
            return self._held[key], None
        evicted = next((k for k in self._held if not self._pins.get(k)), None)
        if evicted is None:
            return None
        self._held[key] = self._held.pop(evicted)
        return self._held[key], evicted

    def pin(self, key: K) -> None:
        """Keep a held key in its slot until it is unpinned as often."""
        if key not in self._held:
            raise KeyError(key)
        self._pins[key] = self._pins.get(key, 0) + 1

    def unpin(self, key: K) -> None:
        """Take one pin back."""
        if self._pins[key] == 1:
            del self._pins[key]
        else:
            self._pins[key] -= 1

    def held(self) -> dict[K, int]:
        """Slot by key, least recently used first."""
        return dict(self._held)

    def check(self) -> None:
        """Verify the invariant.

        Raises:
            AssertionError: it is broken.
        """
        slots = sorted([*self._free, *self._held.values()])
        assert slots == list(range(1, self._slots + 1))
        assert set(self._pins) <= set(self._held)
        assert all(n > 0 for n in self._pins.values())
