"""The promise of a target, and what it makes of an answer. Knows no server in particular."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

# What an answer that is not what it should be may raise where it is looked at.
UNREADABLE: Final = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True, slots=True)
class Said:
    """What a server says about one task."""

    task: str | None = None
    label: str | None = None
    margin: float = 1.0  # between the two best odds, where they are told
    digest: str | None = None
    release: int | None = None
    status: int = 200  # of this part of an answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says to a request."""

    said: tuple[Said, ...]  # in the order of the tasks that were asked for
    generation: int | None = None
    header_digest: str | None = None


class Target(Protocol):
    """A server's language. Built once a process; `request` is called once a hit."""

    def request(
        self, tasks: Sequence[int], image: int, deadline_ms: float, min_generation: int
    ) -> tuple[bytes, ...]:
        """The bytes of a request, in parts: tasks and image by their places in plan and pool."""
        ...

    def read(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """An answer of status 2xx.

        Raises:
            UNREADABLE: it is not what this language has.
        """
        ...
