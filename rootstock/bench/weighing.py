"""The peak memory of one arm of `bench train`, in a process of its own. Knows no clock."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import torch

from adapters_store.errors import RootstockError
from rootstock.bench.adapters import Choice
from rootstock.bench.memory import resident_bytes, tidy
from rootstock.bench.opening import opened
from rootstock.bench.trainees import Course, turn_of, warmed

_STEPS: Final = 3  # the optimizer has its moments after the first
# Of glibc: so large a block is mapped for itself and given back when freed. Left alone, its heap
# keeps holes that depend on the order of things. Too slow to train so, and for every arm alike.
_NO_HOLES: Final = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


class WeighingError(RootstockError):
    """The process of an arm ended before it said what it weighs."""

    def __init__(self, system: str, said: str) -> None:
        super().__init__(system, said)
        self.system, self.said = system, said

    def __str__(self) -> str:
        return f"the memory of {self.system} could not be measured: {self.said}"


def weigh(system: str, choice: Choice | None, place: dict[str, Any]) -> int:
    """Bytes at the peak of a few steps: on a CPU those in use above the loaded backbone.

    Args:
        system: an arm of `trainees`.
        choice: its method, if it has one.
        place: backbone, weights, dtype, device, threads, batch.

    Raises:
        WeighingError
    """
    asked = {**place, "system": system, "choice": None if choice is None else choice.name}
    command = [sys.executable, "-m", "rootstock.bench.weighing", json.dumps(asked)]
    done = subprocess.run(  # noqa: S603 (ourselves)
        command, capture_output=True, text=True, check=False, env={**os.environ, **_NO_HOLES}
    )
    if done.returncode:
        last = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise WeighingError(system, last[-1][:200])
    return int(json.loads(done.stdout)["peak_bytes"])


def main(asked: dict[str, Any]) -> dict[str, int]:
    """What `weigh` asks for, within this process."""
    torch.set_num_threads(asked["threads"])
    weights = None if asked["weights"] is None else Path(asked["weights"])
    course = Course(
        backbone=opened(asked["backbone"], weights),
        device=torch.device(asked["device"]),
        precision=asked["dtype"],
        batch=asked["batch"],
        steps=_STEPS,
        in_place=True,
    )
    choice = None if asked["choice"] is None else Choice.parse(asked["choice"])
    turn_of(asked["system"], choice, warmed(course))()
    course.backbone.net.requires_grad_(requires_grad=False)
    for parameter in course.backbone.net.parameters():
        parameter.grad = None
    tidy()
    before = resident_bytes()
    _forget_peak()
    if asked["device"] == "cuda":
        torch.cuda.reset_peak_memory_stats()
    turn_of(asked["system"], choice, course)()
    if asked["device"] == "cuda":
        return {"peak_bytes": torch.cuda.max_memory_allocated()}
    return {"peak_bytes": _peak() - before}


def _forget_peak() -> None:
    """Linux counts the peak anew from here, where it lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    kilobytes = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024


if __name__ == "__main__":
    from adapters_store.threads import wait_passively

    wait_passively()
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))))
