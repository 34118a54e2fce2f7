"""What a door sends next: all that waits, in as many groups as may be out. Pure; no clock, no Ray.

A door has two groups out for each engine: one is computed, the other waits there and is at hand
when the engine is free. What comes meanwhile waits at the door, where it is fair between tasks, can
be refused without having travelled, and goes together. At most `group_max` forwards go at once: an
engine takes no more in one batch, and a message has a limit.

What an engine has to load first goes apart from the groups, and takes no place of theirs. When its
load ends it stands in the engine's line all at once, so it has a bound of its own: as many entries
as may wait here.

Invariant: no more groups are out than may be, and no more entries apart; nothing waits while one
more could go, once `next` has been asked until it gave nothing. `check()` verifies the first two.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

from serving.queue import FairQueue, Taken

T = TypeVar("T")


class Groups(Generic[T]):
    """The line at a door, and how many groups are out."""

    def __init__(self, *, room: int, out_max: int, group_max: int) -> None:
        """Nothing waits, nothing is out.

        Args:
            room: entries that may wait, and as many that may be apart.
            out_max: groups that may be out.
            group_max: entries in one group.
        """
        self._queue: FairQueue[T] = FairQueue(room)
        self._room, self._out_max, self._group_max = room, out_max, group_max
        self.out = self.apart = 0

    @property
    def waiting(self) -> int:
        """Entries in line."""
        return len(self._queue)

    def offer(self, task: Hashable, item: T, deadline: float) -> bool:
        """Stand in line; False when there is no room."""
        return self._queue.offer(task, item, deadline)

    def next(self, now: float) -> Taken[T]:
        """What goes now, and what is too late to go; empty when all groups are out.

        Whoever got a batch gives it `back` when it has been answered or lost.
        """
        if self.out >= self._out_max:
            return Taken((), ())
        taken = self._queue.take(self._group_max, now)
        self.out += bool(taken.batch)
        return taken

    def back(self) -> None:
        """One group is no longer out."""
        self.out -= 1

    def part(self) -> bool:
        """One more entry goes apart; False when there is no room."""
        if self.apart >= self._room:
            return False
        self.apart += 1
        return True

    def rejoin(self, entries: int) -> None:
        """So many entries are no longer apart."""
        self.apart -= entries

    def check(self) -> None:
        """Verify the invariant.

        Raises:
            AssertionError: it is broken.
        """
        self._queue.check()
        assert 0 <= self.out <= self._out_max
        assert 0 <= self.apart <= self._room
