"""What was promised about tasks that change while the load runs. Pure bookkeeping of one process.

Whoever changes the catalog tells it before a change begins, what may answer from then on, and
after its end, what may. An answer is held to everything that was allowed while it was under way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

GONE: Final = 0  # in place of a release: the task may be refused as one that there is not
ANY: Final = -1  # any release may answer: a change is under way


@dataclass(frozen=True, slots=True)
class State:
    """Of one task, from some instant on."""

    allowed: frozenset[int]  # releases, GONE, ANY
    generation: int  # that requests demand


@dataclass(slots=True)
class Promises:
    """States of tasks, in order."""

    states: dict[int, list[State]] = field(default_factory=dict)

    def tell(self, task: int, allowed: Sequence[int], generation: int) -> None:
        """From now on these may answer for the task."""
        self.states.setdefault(task, []).append(State(frozenset(allowed), generation))

    def mark(self, task: int) -> tuple[int, int]:
        """Where the task's history stands as a request leaves, and the generation it demands."""
        states = self.states.get(task)
        return (len(states), states[-1].generation) if states else (0, 0)

    def broken(self, task: int, mark: int, release: int | None) -> bool:
        """Whether this release, or none (None), may not have answered a request of this mark."""
        states = self.states.get(task)
        if not states or not mark:
            return False  # nothing was promised when it left
        fine = {GONE} if release is None else {release, ANY}
        return not any(fine & state.allowed for state in states[mark - 1 :])
