"""Where a measurement takes place: backbone, engine, threads; and what every row says of it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

import torch

from adapters_store import backbone as backbones
from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone
from rootstock.bench.adapters import Maker
from rootstock.bench.turns import Spread
from serving.engine.engine import Engine
from serving.engine.prepared import Prepared

Row = dict[str, Any]  # one line of a result, plain data

_LARGE: Final = 50_000_000  # parameters; of such a network, batches are half as large
# Ends with its parent, however that ends.
_BUSY: Final = "import os\np = os.getppid()\nwhile os.getppid() == p:\n    sum(range(100000))\n"


@dataclass(frozen=True, slots=True)
class Tell:
    """How a measurement speaks to whoever waits for it."""

    doing: Callable[[str], None]  # what is being done just now
    note: Callable[[str], None]  # what should be known of the result


@dataclass(frozen=True, slots=True)
class Setting:
    """One backbone in one dtype on one device."""

    name: str  # as the user gave it
    backbone: Backbone  # pristine, float32, on the CPU
    engine: Engine
    maker: Maker
    dtype: str
    device: str
    threads: int

    @classmethod
    def open(
        cls, name: str, weights: Path | None, dtype: str, device: str, threads: int
    ) -> "Setting":
        """Threads are set for the whole process; 0 means one a core.

        Without a file of weights any network but the bundled one has random ones: speed does not
        depend on them.

        Raises:
            BackboneUnavailableError
        """
        torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
        bundled = name == backbones.NANO or weights is not None
        backbone = backbones.load(name, weights) if bundled else backbones.random(name)
        engine = Engine(backbone, dtype, device)
        return cls(name, backbone, engine, Maker(backbone), dtype, device, torch.get_num_threads())

    @property
    def batch(self) -> int:
        """Samples of a batch, unless told otherwise."""
        size = sum(p.numel() for p in self.backbone.net.parameters())
        return 16 if size >= _LARGE else 32

    def tune(self, batch: int) -> None:
        """Let the engine choose its form for batches of so many samples, as a server does."""
        self.engine.calibrate(batch)

    def placed(self, adapter: Adapter) -> Prepared:
        """The adapter as it lies in a slot."""
        return self.engine.place(self.engine.prepare(adapter))

    def row(
        self,
        bench: str,
        system: str,
        method: str | None,
        *,
        batch: int,
        distinct: int,
        ratio: Spread | None,
        runs: int,
        **more: Any,
    ) -> Row:
        """A row in the one shape; `ratio` is of speeds, to what the bench compares with."""
        return {
            "bench": bench,
            "system": system,
            "method": method,
            "backbone": public(self.name),
            "dtype": self.dtype,
            "device": self.device,
            "threads": self.threads,
            "engine": str(self.engine.form),
            "batch": batch,
            "distinct": distinct,
            "ratio": None if ratio is None else round(ratio.median, 4),
            "quartiles": None if ratio is None else [round(q, 4) for q in ratio.quartiles],
            "runs": runs,
            **more,
        }


def public(backbone: str) -> str:
    """Its name, without the folder if it was given as a path: rows are shown to others."""
    if backbone.startswith(("hf-hub:", "hf_hub:")):
        return backbone
    return PurePath(backbone).name


def timing(spread: Spread, samples: int) -> Row:
    """The raw times of an arm, as every row gives them."""
    return {
        "seconds": round(spread.median, 6),
        "seconds_quartiles": [round(q, 6) for q in spread.quartiles],
        "images_per_s": round(samples / spread.median, 2),
    }


@contextmanager
def one_core_busy(wanted: bool) -> Iterator[None]:
    """While inside, another process of ours keeps one core busy, if that is wanted."""
    if not wanted:
        yield
        return
    other = subprocess.Popen([sys.executable, "-c", _BUSY])  # noqa: S603 (our own text)
    try:
        yield
    finally:
        other.kill()
        other.wait()
