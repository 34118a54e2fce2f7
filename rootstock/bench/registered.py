"""Thousands of registered tasks, cheap to make: artifacts on disk, and a residency that has them.

Knows no speed. What is measured afterwards is the real host memory and the real slots.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from adapters_store import artifact
from adapters_store.adapter import Adapter
from rootstock.bench.adapters import artifacts
from rootstock.bench.setting import Setting
from serving.engine.prepared import Prepared
from serving.loading import Facts, Loader
from serving.residency import Residency
from serving.telemetry import Telemetry

HOST_BYTES: Final = 2**40  # all that is registered stays in host memory
_BASES: Final = 4  # adapters that all others are variations of
_AT_ONCE: Final = 64  # loads that are waited for together


@dataclass(frozen=True, slots=True)
class Library:
    """Artifacts in a folder, each under its digest."""

    folder: Path
    digests: tuple[str, ...]  # of task 0, 1, …
    bases: tuple[Adapter, ...]
    nbytes: int  # of all of them

    @classmethod
    def make(
        cls, setting: Setting, folder: Path, method: str, options: dict[str, Any], count: int
    ) -> "Library":
        """Write so many artifacts; task i is a variation of base i modulo their number.

        Raises:
            ValueError: the method has no place on the backbone.
        """
        bases = tuple(
            setting.maker.make(method, f"base-{i}", i, options=options)
            for i in range(min(_BASES, count))
        )
        digests, nbytes = [], 0
        for _, data in artifacts(bases, count):
            digests.append(artifact.digest(data))
            (folder / digests[-1]).write_bytes(data)
            nbytes += len(data)
        return cls(folder, tuple(digests), bases, nbytes)

    def fetch(self, digest: str) -> bytes:
        """The artifact of this digest."""
        return (self.folder / digest).read_bytes()

    def adapter(self, number: int) -> Adapter:
        """The adapter of this task."""
        return artifact.read(self.fetch(self.digests[number]))


class _Trusting(Loader):
    """Leaves out the effect check: ten thousand forwards would say what those of the bases say."""

    def prove(self, *_: Any, **__: Any) -> None:
        return


class Registered:
    """A residency with tasks in host memory, and what it took to bring them there."""

    def __init__(self, setting: Setting, library: Library, slots: int) -> None:
        """Nothing is loaded yet."""
        self.setting, self.digests = setting, tuple[str, ...]()
        self.seconds, self.host_bytes = 0.0, 0
        self.residency = Residency(
            setting.backbone,
            setting.engine,
            library.fetch,
            Telemetry(task_labels_max=1),
            slots=slots,
            host_bytes=HOST_BYTES,
            loader=_Trusting,
        )

    def load(self, digests: Sequence[str]) -> None:
        """Bring in further tasks, without their effect checks; blocking."""
        began = time.perf_counter()
        for start in range(0, len(digests), _AT_ONCE):
            some = [self.residency.get(d) for d in digests[start : start + _AT_ONCE]]
            self.host_bytes += sum(f.result().prepared.nbytes for f in some)
        self.digests += tuple(digests)
        self.seconds += time.perf_counter() - began

    def run(self, pixels: NDArray[np.uint8], tasks: Sequence[int]) -> list[NDArray[np.float32]]:
        """One batch, as a replica runs it: sample i wants task i of `tasks`."""
        digests = [self.digests[t] for t in tasks]
        held: list[Facts] = [self.residency.get(d).result() for d in digests]
        placed = self.residency.slot(digests)
        slotted = {d: p for d, p in placed.items() if not isinstance(p, Exception)}
        try:
            assert len(slotted) == len(placed) <= len(held)
            return self.setting.engine.run(pixels, [slotted[d] for d in digests])
        finally:
            self.residency.release(slotted)

    def close(self) -> None:
        """Stop its threads."""
        self.residency.close()


def slotted(residency: Residency, digest: str) -> Prepared:
    """What lies in the digest's slot, pinned.

    Raises:
        Exception: whatever kept it from being put there.
    """
    placed = residency.slot([digest])[digest]
    if isinstance(placed, Exception):
        raise placed
    return placed
