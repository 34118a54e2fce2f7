"""What all systems are given: the same pictures, tasks and truth, in one folder. Knows no server.

Tasks are made by a program of Rootstock's (`rootstock.bench.peer_tasks`), for this package imports
nothing of it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from loadtest.images import Picture
from loadtest.images import pool as image_pool
from loadtest.peers.errors import PeerError
from loadtest.scenario import Images

_SEED: Final = 11
_SIDE: Final = 400  # of pictures that are drawn where no folder is given
_LAST_WORDS: Final = 800

Truth = Mapping[str, Mapping[str, str]]  # task → picture → label, the surest first


@dataclass(frozen=True, slots=True)
class Order:
    """Which tasks are to be made."""

    backbone: str
    weights: Path | None
    dtype: str
    images: Path | None
    pictures: int
    tasks: tuple[int, ...]  # numbers of tasks that are measured


@dataclass(frozen=True, slots=True)
class Workplace:
    """A folder that is ready."""

    folder: Path
    order: Order
    names: tuple[str, ...]  # of tasks; the last one is there to be added
    pictures: tuple[Picture, ...]
    truth: Truth

    @property
    def spare(self) -> str:
        """The task that is added while others are served."""
        return self.names[-1]

    def tasks(self, count: int) -> tuple[str, ...]:
        """The first so many."""
        return self.names[:count]

    @property
    def images(self) -> Images:
        """As a scenario names them."""
        return Images(folder=str(self.folder / "pictures"), count=len(self.pictures))

    def live(self, kept: str, count: int) -> Path:
        """A new folder with what a server of so many tasks is given."""
        live = Path(tempfile.mkdtemp(prefix="live-", dir=self.folder))
        if kept == "store":
            shutil.copytree(self.folder / f"store-{count}", live, dirs_exist_ok=True)
        else:
            for task in self.tasks(count):
                self.add(kept, live, task)
        return live

    def add(self, kept: str, live: Path, task: str) -> None:
        """Put one more task into such a folder, at once and whole."""
        there = self.source(kept, task)
        (live / there.name).symlink_to(there)

    def source(self, kept: str, task: str) -> Path:
        """Where a task's file or folder lies; of a store, the artifact."""
        if kept == "peft":
            return self.folder / "peft" / task
        return self.folder / ("artifacts" if kept == "store" else kept) / f"{task}.safetensors"


@contextmanager
def workplace(order: Order, say: Callable[[str], None]) -> Iterator[Workplace]:
    """Make it; it is gone afterwards.

    Raises:
        PeerError: tasks cannot be made.
        ScenarioError: the folder has no picture.
    """
    with tempfile.TemporaryDirectory(prefix="rsp-") as held:
        folder = Path(held)
        names = tuple(f"task-{i:04d}" for i in range(max(order.tasks) + 1))
        _draw(order, folder / "pictures")
        _make(order, folder, names, say)
        truth = json.loads((folder / "truth.json").read_text())
        if unsure := [task for task in names if not truth[task]]:
            raise PeerError("tasks", f"no picture has a sure label in {', '.join(unsure[:5])}")
        # As client processes will read them: sorted by name.
        pictures = image_pool(
            Images(folder=str(folder / "pictures"), count=order.pictures),
            np.random.SeedSequence(_SEED),
        )
        yield Workplace(folder, order, names, pictures, truth)


def _draw(order: Order, folder: Path) -> None:
    """So many pictures of a folder, or drawn ones; as JPEG, untouched where they are that."""
    asked: dict[str, Any] = {"count": order.pictures}
    if order.images is not None:
        asked |= {"folder": str(order.images)}
    else:
        asked |= {"sizes": ({"width": _SIDE, "height": _SIDE},)}
    folder.mkdir()
    for number, picture in enumerate(
        image_pool(Images.model_validate(asked), np.random.SeedSequence(_SEED))
    ):
        if picture.media != "image/jpeg":
            raise PeerError("pictures", f"{picture.name} is no JPEG")
        (folder / f"picture-{number:03d}.jpg").write_bytes(picture.data)


def _make(order: Order, folder: Path, names: tuple[str, ...], say: Callable[[str], None]) -> None:
    asked = {
        "folder": str(folder),
        "backbone": order.backbone,
        "weights": None if order.weights is None else str(order.weights.absolute()),
        "dtype": order.dtype,
        "names": names,
        "stores": order.tasks,
    }
    command = [sys.executable, "-m", "rootstock.bench.peer_tasks", json.dumps(asked)]
    with (folder / "tasks.err").open("w+") as errors:
        with subprocess.Popen(  # noqa: S603 (ourselves)
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
        ) as making:
            assert making.stdout is not None
            for number, _ in enumerate(making.stdout, 1):
                if number % 25 == 0 or number == len(names):
                    say(f"made {number} of {len(names)} tasks")
        if making.returncode:
            errors.seek(0)
            raise PeerError("tasks", errors.read().strip()[-_LAST_WORDS:])
