"""What flows through serving: one frozen type per arrow. Knows nothing that acts."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Path(StrEnum):
    """How a sample is computed."""

    MIXED = "mixed"
    MERGED = "merged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Which release answers, and how. The door resolves it, the engine obeys the digest."""

    task: str
    release: int
    digest: str  # sha256 of the artifact, hex
    generation: int = 0  # of the catalog that said so
    path: Path = Path.MIXED


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image wanting one task."""

    route: Route
    pixels: NDArray[np.uint8]  # [3, H, W] in the backbone's input size
    budget_s: float  # time left to answer, as it leaves the door: clocks do not cross machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the engine says to one sample."""

    logits: NDArray[np.float32]  # [labels]
    path: Path
    queue_s: float = 0.0  # from submission until its batch was formed
    compute_s: float  # of the whole batch
    batch: int  # samples in its batch

    def after_waiting(self, queue_s: float) -> "Answer":
        """The same answer, knowing how long its sample waited."""
        return replace(self, queue_s=queue_s)


class Fleet(Protocol):
    """All replicas of this deployment, this one included. Ray's side implements it."""

    def broadcast(
        self, method: str, *args: Any, timeout_s: float = 2.0
    ) -> Awaitable[Sequence[Any]]:
        """What each replica that answered in time returned; failed ones are left out."""
        ...

    def expected(self) -> int:
        """How many replicas should answer a broadcast."""
        ...

    def request_id(self) -> str:
        """Serve's name for the request that is being handled; empty outside of one."""
        ...
