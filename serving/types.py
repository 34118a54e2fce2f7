"""What flows through serving: one frozen type per arrow. Knows nothing that acts."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from adapters_store.manifest import Preprocess


class Kind(StrEnum):
    """What a replica does."""

    FUSED = "fused"  # both of these
    DOOR = "door"  # speaks HTTP, routes, decodes
    ENGINE = "engine"  # holds adapters and computes


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
    head_only: bool = False  # its adapter changes no target; see `bundles`


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


class Known(Protocol):
    """What a door must know of an adapter that an engine has loaded and verified."""

    @property
    def digest(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def metrics(self) -> dict[str, float]: ...
    @property
    def head_only(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The same as plain data, for a door that is not where the adapter is."""

    digest: str
    task: str
    method: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    metrics: dict[str, float]
    head_only: bool

    @classmethod
    def of(cls, known: Known) -> "Card":
        """Without what only the engine needs."""
        return cls(
            digest=known.digest,
            task=known.task,
            method=known.method,
            labels=known.labels,
            preprocess=known.preprocess,
            metrics=known.metrics,
            head_only=known.head_only,
        )


@dataclass(frozen=True, slots=True)
class Classified:
    """One image's answer, and what it took."""

    route: Route
    labels: tuple[str, ...]
    answer: Answer
    decode_s: float


class Arriving(Protocol):
    """Where adapters come in: what following the log asks of it."""

    def expect(self, digest: str) -> "Future[Any]":
        """Done when an adapter that is about to answer may do so; fails when it never will."""
        ...

    def prefetch(self, digests: Iterable[str]) -> None:
        """Somebody may ask for these."""
        ...

    def forget(self, digests: Iterable[str]) -> None:
        """Nobody is expected to ask for these again."""
        ...


class Engines(Protocol):
    """Where a door has its samples computed: in its own process, or across a hop."""

    @property
    def waiting(self) -> int:
        """Samples in line, as far as this door can see."""
        ...

    @property
    def ahead(self) -> int:
        """Samples that should be in line so that no engine has to wait for one."""
        ...

    def listen(self, taken: Callable[[], None]) -> None:
        """Have this called, in whatever thread, whenever the line got shorter."""
        ...

    def known(self, digest: str) -> "Future[Any]":
        """`Known` of an adapter that is loaded and verified; hold it until its sample is answered.

        The future is done when the adapter is at hand; shared, and not to be cancelled. It raises:
            AdapterError: it will never be served.
            StoreError, EngineLostError: not just now.
        """
        ...

    def refused(self, digest: str) -> bool:
        """Whether a digest is known never to be served."""
        ...

    def refusals(self) -> frozenset[str]:
        """Digests that are known never to be served."""
        ...

    async def compute(self, sample: Sample) -> Answer:
        """One sample's answer.

        Raises:
            OverloadedError, DeadlineError, ClosingError, EngineLostError, AdapterError
        """
        ...

    async def compute_all(self, samples: Sequence[Sample]) -> Sequence[Answer | BaseException]:
        """The same for several that came together, and stay together where that saves forwards."""
        ...

    def install(self, digest: str, data: bytes, task: str) -> None:
        """Have an engine verify bytes that are about to be published; blocking.

        Raises:
            AdapterError: with every fault.
            EngineLostError: no engine said anything.
        """
        ...

    async def status(self) -> Sequence[Mapping[str, Any]]:
        """What each engine that answers says of itself; `ready` among it."""
        ...

    def healthy(self) -> bool:
        """Whether what is in this process still comes round."""
        ...

    def drain(self) -> None:
        """Compute what waits, take nothing more."""
        ...

    def close(self) -> None:
        """Let go of everything; bounded."""
        ...


class Fleet(Protocol):
    """All replicas of this application, this one included. Ray's side implements it."""

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
