"""A run on disk, so that it can go on after a crash. Knows files, no loop and no network.

One safetensors file: the tensors, and as its only metadata one JSON text. It appears whole or not
at all, and it says which run it is of.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from adapters_store.manifest import canonical
from training.errors import CheckpointInvalidError

FORMAT: Final = 1
_KEY: Final = "run"
_SHARE: Final = 20  # a save may cost a twentieth of the time between saves


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where a run is kept, how often, and whether it goes on from there."""

    path: Path
    every_s: float = (
        30.0  # between two saves, and at least 20 times what a save takes; 0: each step
    )
    resume: bool = False  # go on from the file if there is one; else it is begun anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a run needs to go on."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]  # JSON


class Keeper:
    """Writes and reads one run's file."""

    def __init__(self, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
        """`identity` is JSON: whatever another run has otherwise."""
        self._plan = checkpoint
        self._identity = json.loads(canonical(dict(identity)))
        self._last, self._cost = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        wait = max(self._plan.every_s, _SHARE * self._cost if self._plan.every_s else 0.0)
        return time.monotonic() - self._last >= wait

    def save(self, run: Saved) -> None:
        """Replace the file by this state, whole."""
        begun = time.monotonic()
        told = {"format": FORMAT, "identity": self._identity, "facts": run.facts}
        tensors = {name: t.detach().cpu().contiguous() for name, t in run.tensors.items()}
        content = save(tensors, metadata={_KEY: canonical(told)})
        path = self._plan.path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self._last = time.monotonic()
        self._cost = self._last - begun

    def saved(self) -> Saved | None:
        """What to go on from; None where the run begins anew.

        Raises:
            CheckpointInvalidError: the file is damaged, or of another run.
        """
        path = self._plan.path
        if not self._plan.resume or not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                told = json.loads((file.metadata() or {}).get(_KEY, "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError, OSError) as error:
            fault = f"it cannot be read ({str(error)[:100]})"
            raise CheckpointInvalidError(path.name, (fault,)) from None
        if told.get("format") != FORMAT:
            raise CheckpointInvalidError(path.name, ("it is no checkpoint of this format",))
        if faults := differences(told["identity"], self._identity):
            raise CheckpointInvalidError(path.name, faults)
        return Saved(tensors=tensors, facts=told["facts"])


def discard(checkpoint: Checkpoint) -> None:
    """The run has ended well: nothing goes on from here."""
    checkpoint.path.unlink(missing_ok=True)


def differences(theirs: Any, ours: Any, where: str = "") -> tuple[str, ...]:
    """What two JSON values do not agree in, a sentence each."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = sorted({*theirs, *ours})
        found = (differences(theirs.get(k), ours.get(k), f"{where}.{k}".lstrip(".")) for k in keys)
        return tuple(line for lines in found for line in lines)
    if theirs == ours:
        return ()
    short = (canonical(value)[:40] for value in (theirs, ours))
    return ("its {} is {}, this run's is {}".format(where, *short),)
