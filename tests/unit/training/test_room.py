"""Memory that runs out is one sentence about what to lower."""

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
