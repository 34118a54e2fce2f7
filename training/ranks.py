"""Several processes that train one task together. Knows no launcher and no image.

Every process holds all weights and takes its part of every batch; gradients are added up, so a
step is the step that one process would make, up to rounding. What is drawn at random (dropout,
stochastic depth) is drawn by each process for itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, distributed, nn

from training.errors import CheckpointInvalidError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """One process of several, each of which calls every method at the same place of its run."""

    rank: int = 0
    world: int = 1

    @classmethod
    def joined(cls) -> "Ranks":
        """This process in the group that `torch.distributed` was initialised with, if any."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(rank=distributed.get_rank(), world=distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this one speaks for all."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """This process's share of a batch [B]; of small batches, the last get nothing."""
        return torch.tensor_split(rows, self.world)[self.rank]

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every gradient becomes its sum over all processes; no gradient counts as zero."""
        if self.world == 1:
            return
        given = list(parameters)
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in given]
        flat = torch.cat([slope.flatten() for slope in slopes])
        distributed.all_reduce(flat)
        for p, slope in zip(given, torch.split(flat, [p.numel() for p in given]), strict=True):
            p.grad = slope.view_as(p)

    def add(self, sums: Tensor) -> None:
        """The tensor becomes its sum over all processes."""
        if self.world > 1:
            distributed.all_reduce(sums)

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Everybody has the first one's values."""
        if self.world > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def gathered(self, tensor: Tensor, device: torch.device) -> list[Tensor]:
        """What each process has in place of this, by rank, on the CPU; `device` carries it."""
        if self.world == 1:
            return [tensor]
        mine = tensor.to(device)
        found = [torch.empty_like(mine) for _ in range(self.world)]
        distributed.all_gather(found, mine)
        return [one.cpu() for one in found]

    def check_together(self, step: int, device: torch.device) -> None:
        """Whether all begin with the same step.

        Raises:
            CheckpointInvalidError: some found a checkpoint and others did not.
        """
        found = {int(one) for one in self.gathered(torch.tensor([step]), device)}
        if len(found) > 1:
            fault = f"processes found it at steps {', '.join(map(str, sorted(found)))}"
            raise CheckpointInvalidError("the checkpoint", (fault, "all must see the same file"))


ALONE: Final = Ranks()
