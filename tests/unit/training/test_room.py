"""Memory that runs out is one sentence about what to lower; what is freed is held for a while."""

import ctypes
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from training import loop
from training.errors import MemoryExhaustedError
from training.room import holding_freed, within_memory
from training.run import train_task

CPU = torch.device("cpu")
STEP = 2**28  # bytes
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


def faults_of_steps() -> int:
    """Pages mapped by three rounds of taking, filling and freeing what activations would be."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        del [torch.ones(STEP // 8, dtype=torch.uint8) for _ in range(8)][:]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator alone")
def test_what_a_step_frees_the_next_one_has_again(monkeypatch):
    """And the system gets it back in the end."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    pages = STEP // resource.getpagesize()
    with holding_freed():
        faults_of_steps()
        held, inside = faults_of_steps(), resident()
    assert held < pages / 10
    assert resident() < inside - STEP / 2
    assert faults_of_steps() > pages


def test_an_allocator_that_the_environment_sets_is_left_as_it_is(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**20))
    with holding_freed():
        faults_of_steps()
        assert faults_of_steps() > STEP // resource.getpagesize()


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
