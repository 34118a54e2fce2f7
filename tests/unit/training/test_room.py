"""Memory that runs out is one sentence about what to lower; what is freed is held for a while."""

import ctypes
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from training import loop
from training.errors import MemoryExhaustedError
from training.room import within_memory
from training.run import train_task

CPU = torch.device("cpu")
HUGE = 2**48  # bytes: more than a process can be given


def out_of_cuda():
    """What torch raises on a GPU."""
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("fail", "where"),
    [
        (lambda: torch.empty(HUGE, dtype=torch.uint8), "this machine"),
        (lambda: np.ones(HUGE, dtype=np.uint8), "this machine"),
        (out_of_cuda, "cpu"),
    ],
)
def test_a_failed_allocation_says_what_to_lower(fail, where):
    """torch's on the CPU and on a GPU, and numpy's."""
    with (
        pytest.raises(
            MemoryExhaustedError, match=f"^{where} has not enough .* 64 images: lower the batch"
        ),
        within_memory(CPU, 64),
    ):
        fail()


def test_other_errors_pass_through():
    """A wrong shape is no lack of memory."""
    with pytest.raises(RuntimeError, match="size"), within_memory(CPU, 64):
        torch.zeros(2) @ torch.zeros(3)


def test_a_step_that_does_not_fit_ends_a_run_so(tiny, patterns, brief, monkeypatch):
    """The real allocator refuses a real tensor in the middle of a run."""
    forward = loop.Trunk.features

    def greedy(trunk, images):
        return forward(trunk, images) + torch.empty(HUGE, dtype=torch.uint8).sum()

    monkeypatch.setattr(loop.Trunk, "features", greedy)

    with pytest.raises(MemoryExhaustedError, match="steps of 10 images"):
        train_task(patterns, tiny, "name", "alore", {}, brief)


STEPS = """
import ctypes, json, resource, sys
from pathlib import Path
import torch
from training.room import holding_freed

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages, of which one fault maps 2 MiB
PAGE = resource.getpagesize()
STEP = int(sys.argv[1])  # bytes

def faults():  # of three rounds of taking, filling and freeing what activations would be
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        blocks = [torch.ones(STEP // 8, dtype=torch.uint8) for _ in range(8)]
        del blocks
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * PAGE / STEP

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / STEP

with holding_freed():
    with holding_freed():  # of a part of the work
        faults()
    # Small things may come to lie between the blocks, so that one no longer fits where it was:
    # the heap grows by it once. Memory that is given back costs every time.
    held, inside = min(faults() for _ in range(3)), resident()
json.dump({"held": held, "returned": inside - resident(), "after": faults()}, sys.stdout)
"""


def steps(step: int, **environment: str) -> dict[str, float]:
    """Of a process of its own, whose heap nothing else has used; in units of a step's memory."""
    bare = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(step)],
        env={**bare, **environment}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator alone")
@pytest.mark.parametrize("step", [2**28, pytest.param(3 * 2**30, marks=pytest.mark.slow)])
def test_what_a_step_frees_the_next_one_has_again(step):
    """And the system gets it back in the end."""
    found = steps(step)
    assert found["held"] < 0.1
    assert found["returned"] > 0.5
    assert found["after"] > 0.5


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator alone")
def test_an_allocator_that_the_environment_sets_is_left_as_it_is():
    assert steps(2**28, MALLOC_MMAP_THRESHOLD_=str(2**20))["held"] > 0.5
