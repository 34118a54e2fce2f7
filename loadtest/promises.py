"""What was promised about tasks that change while the load runs. Pure bookkeeping of one process.

Whoever changes the catalog tells it before a change begins, what may answer from then on, and
after its end, what may. An answer is held to everything that was allowed while it was under way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

GONE: Final = 0  # in place of a release: the task may be refused as one that there is not
ANY: Final = -1  # any release may answer: a change is under way


@dataclass(frozen=True, slots=True)
class State:
    """Of one task, from some instant on."""

    allowed: frozenset[int]  # releases, GONE, ANY
    generation: int  # that requests demand


class Mark(NamedTuple):
    """Where the histories of a request's tasks stand as it leaves."""

    places: tuple[int, ...] = ()  # one a task, 0: nothing was promised yet; (): the same of all
    generation: int = 0  # that it demands


_UNPROMISED: Final = Mark()


@dataclass(slots=True)
class Promises:
    """States of tasks, in order."""

    states: dict[int, list[State]] = field(default_factory=dict)

    def tell(self, task: int, allowed: Sequence[int], generation: int) -> None:
        """From now on these may answer for the task."""
        self.states.setdefault(task, []).append(State(frozenset(allowed), generation))

    def mark(self, tasks: Sequence[int]) -> Mark:
        """Of a request for these tasks that leaves now."""
        if not self.states:
            return _UNPROMISED
        held = [self.states.get(task, ()) for task in tasks]
        demanded = (states[-1].generation for states in held if states)
        return Mark(tuple(len(states) for states in held), max(demanded, default=0))

    def broken(self, task: int, place: int, release: int) -> bool:
        """Whether this release may not have answered a request that left at this place."""
        if not place:
            return False  # nothing was promised when it left
        fine = {release, ANY}
        return not any(fine & state.allowed for state in self.states[task][place - 1 :])

    def gone(self, task: int, place: int) -> bool:
        """Whether a request that left at this place may be told that there is no such task."""
        states = self.states.get(task, ())[max(place - 1, 0) :]
        return any(GONE in state.allowed for state in states)
