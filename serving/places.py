"""How many calls of each task are inside at once. Pure; knows no call.

A task may hold at most four times as many places as are left: one task alone gets four fifths of
the room, several hot ones share it, and some places always wait for whoever comes next.

Invariant: whoever is inside is counted once, under a task with at least one place. `check()`
verifies it.
"""

from typing import Final

_GREED: Final = 4  # places that a task may hold for each that is left


def fits(own: int, everyones: int, room: int) -> bool:
    """Whether a task that holds `own` of all places taken may have one more of `room`."""
    return own < _GREED * (room - everyones)


class Places:
    """The places of one door."""

    def __init__(self, room: int) -> None:
        """All are free."""
        self._room, self._taken = room, 0
        self._by_task: dict[str, int] = {}

    def take(self, task: str) -> bool:
        """A place for one more call; False: this task has to wait."""
        own = self._by_task.get(task, 0)
        if not fits(own, self._taken, self._room):
            return False
        self._by_task[task] = own + 1
        self._taken += 1
        return True

    def give(self, task: str) -> None:
        """A call has left."""
        self._taken -= 1
        self._by_task[task] -= 1
        if not self._by_task[task]:
            del self._by_task[task]

    def crowds(self, task: str) -> bool:
        """Whether others are here, and this task holds more places than one of them on average."""
        return self._by_task.get(task, 0) * len(self._by_task) > self._taken

    def check(self) -> None:
        """Verify the invariant.

        Raises:
            AssertionError: it is broken.
        """
        assert all(count > 0 for count in self._by_task.values())
        assert self._taken == sum(self._by_task.values()) <= self._room
