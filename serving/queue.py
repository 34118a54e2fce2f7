"""Who is computed next: a bounded queue, fair between tasks. Pure; knows no clock, no thread.

Invariant: every waiting entry is in exactly one task's line, every line is non-empty and in the
rotation once, and `len(queue)` is the sum of the lines. `check()` verifies it.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """Something in line, and when it is of no use any more."""

    item: T
    deadline: float  # on the caller's clock, seconds


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """What one look at the queue gives."""

    batch: tuple[T, ...]
    late: tuple[T, ...]  # could not have been answered in time; to be refused without compute


class FairQueue(Generic[T]):
    """Deficit round-robin over tasks.

    Every sample costs the same forward, so the quantum is one sample and no deficit is ever
    carried over: the rotation gives each task one place in turn, however many it has waiting.
    """

    def __init__(self, room: int) -> None:
        """Hold at most `room` entries."""
        self._room = room
        self._size = 0
        self._lines: dict[Hashable, deque[Waiting[T]]] = {}
        self._rotation: deque[Hashable] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return self._size

    def offer(self, task: Hashable, item: T, deadline: float) -> bool:
        """Stand in line; False when there is no room."""
        if self._size >= self._room:
            return False
        if task not in self._lines:
            self._lines[task] = deque()
            self._rotation.append(task)
        self._lines[task].append(Waiting(item, deadline))
        self._size += 1
        return True

    def of(self, task: Hashable) -> int:
        """How many of a task wait."""
        return len(self._lines.get(task, ()))

    def before(self, task: Hashable) -> int:
        """How many would be taken before one more of this task."""
        own = self.of(task)
        others = (len(line) for name, line in self._lines.items() if name != task)
        return own + sum(min(line, own + 1) for line in others)

    def take(self, most: int, must_finish_by: float) -> Taken[T]:
        """Up to `most` entries, one task after the other.

        Args:
            most: size of the batch.
            must_finish_by: when a batch that starts now would be done; entries with an earlier
                deadline are handed back as late.
        """
        batch: list[T] = []
        late: list[T] = []
        while self._size and len(batch) < most:
            task = self._rotation.popleft()
            line = self._lines[task]
            entry = line.popleft()
            self._size -= 1
            if line:
                self._rotation.append(task)
            else:
                del self._lines[task]
            (late if entry.deadline < must_finish_by else batch).append(entry.item)
        return Taken(tuple(batch), tuple(late))

    def check(self) -> None:
        """Verify the invariant.

        Raises:
            AssertionError: it is broken.
        """
        assert sorted(map(repr, self._rotation)) == sorted(map(repr, self._lines))
        assert all(self._lines.values())
        assert self._size == sum(map(len, self._lines.values())) <= self._room
