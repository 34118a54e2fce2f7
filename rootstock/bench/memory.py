"""Bytes of a task: on disk, in host memory, in a slot; and of a full model instead."""

import ctypes
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rootstock.bench.adapters import Choice
from rootstock.bench.registered import Library, Registered, slotted
from rootstock.bench.setting import Row, Setting, Tell
from serving.engine.engine import DTYPES

_WARM: Final = 64  # tasks that are loaded first, so that what is paid once is not counted
_SLOTS: Final = 64


def measure(setting: Setting, choice: Choice, tasks: int, tell: Tell) -> Iterator[Row]:
    """One row for a task's adapter, one for a full model each.

    Args:
        setting: where.
        choice: the method.
        tasks: held in host memory while the process is weighed.
        tell: told what is being done.
    """
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        tell.doing(f"writing {tasks + _WARM} artifacts")
        library = Library.make(
            setting, Path(folder), choice.method, dict(choice.options), tasks + _WARM
        )
        tell.doing(f"holding {tasks} tasks")
        held = Registered(setting, library, _SLOTS)
        try:
            held.load(library.digests[:_WARM])
            tidy()
            before, counted, began = resident_bytes(), held.host_bytes, held.seconds
            held.load(library.digests[_WARM:])
            grown, counted = resident_bytes() - before, held.host_bytes - counted
            took = held.seconds - began
            tidy()
            kept = resident_bytes() - before
            slot = _slot_bytes(held)
        finally:
            held.close()
    artifact_bytes = library.nbytes / len(library.digests)
    model = sum(p.numel() for p in setting.backbone.net.state_dict().values())
    full = model * DTYPES[setting.dtype].itemsize
    shape: dict[str, Any] = {"batch": 0, "distinct": tasks, "ratio": None, "runs": 1}
    yield setting.row(
        "memory",
        "mixed",
        choice.name,
        **shape,
        tasks=tasks,
        artifact_bytes=round(artifact_bytes),
        host_bytes=round(counted / tasks),
        resident_bytes=round(grown / tasks),
        resident_tidied_bytes=round(kept / tasks),  # after what malloc holds back was given back
        slot_bytes=slot,
        host_per_artifact=round(grown / tasks / artifact_bytes, 4),
        full_per_task=round(full / (grown / tasks), 1),
        registration_s=round(took, 3),
    )
    yield setting.row("memory", "full", choice.name, **shape, tasks=tasks, host_bytes=full)


def resident_bytes() -> int:
    """Of this process, in physical memory; on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def tidy() -> None:
    """Collect, and give free memory back: growth would hide in it, or it would look like growth."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


def _slot_bytes(held: Registered) -> int:
    """Of one task's slot, as the engine keeps it on its device."""
    digest = held.digests[0]
    facts = held.residency.get(digest).result()
    nbytes = slotted(held.residency, facts.digest).nbytes
    held.residency.release([digest])
    return nbytes
