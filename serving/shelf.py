"""What is kept within a budget of bytes. Pure bookkeeping: knows no adapter and no thread.

Invariant: what lies on the shelf never weighs more than the budget; the used bytes are the sum of
what is there. `check()` verifies it.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Shelf(Generic[K, V]):
    """Things of known weight, least recently used first out."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.used_bytes = most_bytes, 0
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()  # least recently used first

    def find(self, key: K) -> V | None:
        """What lies there under a key; its place in the order stays."""
        found = self._held.get(key)
        return None if found is None else found[0]

    def touch(self, key: K) -> None:
        """Count a held key as just used."""
        self._held.move_to_end(key)

    def has_room(self, nbytes: int) -> bool:
        """Whether so much fits without anything leaving."""
        return self.used_bytes + nbytes <= self.most_bytes

    def put(self, key: K, value: V, nbytes: int) -> list[K]:
        """Lay down something new, as just used; which keys had to leave for it.

        What is heavier than the whole budget is not taken, and nothing leaves for it.
        """
        if key in self._held:
            raise KeyError(key)
        gone: list[K] = []
        if nbytes > self.most_bytes:
            return gone
        while not self.has_room(nbytes):
            gone.append(next(iter(self._held)))
            self.take(gone[-1])
        self._held[key] = (value, nbytes)
        self.used_bytes += nbytes
        return gone

    def take(self, key: K) -> bool:
        """Take a key off; False: it was not there."""
        found = self._held.pop(key, None)
        if found is not None:
            self.used_bytes -= found[1]
        return found is not None

    def __contains__(self, key: K) -> bool:
        return key in self._held

    def __iter__(self) -> Iterator[K]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def check(self) -> None:
        """Verify the invariant.

        Raises:
            AssertionError: it is broken.
        """
        assert self.used_bytes == sum(nbytes for _, nbytes in self._held.values())
        assert 0 <= self.used_bytes <= self.most_bytes
