"""Where a run stands: all that its next step depends on. Knows no file and no image.

A state is tensors and JSON. Restored, a run makes the steps that it would have made: the bits are
the same on one CPU with one thread count.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import torch
from torch import Tensor, nn

from training.checkpoint import Saved
from training.errors import CheckpointInvalidError
from training.ranks import Ranks
from training.watch import Epoch

_PLACE: Final = "the checkpoint"


class Standing:
    """The state of one run on one process."""

    def __init__(
        self, parts: Mapping[str, nn.Module], rate: float, decay: float, seed: int
    ) -> None:
        """A run that has made no step.

        Args:
            parts: what is trained, by name, on its device; parameters without gradients are not.
            rate: learning rate of the first step.
            decay: AdamW's weight decay.
            seed: of the order of images.
        """
        self.kept: dict[str, Tensor] = {}  # what an epoch may change beside the weights
        self.trained: dict[str, nn.Parameter] = {}
        for part, module in parts.items():
            self.kept |= {f"{part}.{name}": t for name, t in module.named_buffers()}
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    self.trained[f"{part}.{name}"] = parameter
        weights = list(self.trained.values())
        self.device = weights[0].device
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=fused)
        self.shuffle = torch.Generator().manual_seed(seed)
        self.log: list[Epoch] = []
        self.step = 0  # made so far
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss, hits
        self.spent = 0.0  # seconds in this epoch, by processes that came before
        self.before = self.shuffle.get_state()  # of the shuffle, when this epoch began

    def order(self, count: int) -> Tensor:
        """This epoch's order of `count` images."""
        self.before = self.shuffle.get_state()
        return torch.randperm(count, generator=self.shuffle)

    def saved(self, seconds: float, ranks: Ranks) -> Saved:
        """The state; every process of a group calls this, `seconds` into the epoch."""
        tensors: dict[str, Tensor] = {**self.trained, **self.kept, "sums": self.sums}
        tensors["shuffle"] = self.before
        state = self.optimizer.state_dict()["state"]
        for name, at in zip(self.trained, range(len(self.trained)), strict=True):
            for kind, values in state.get(at, {}).items():
                tensors[f"adam.{kind}.{name}"] = values
        for kind, drawn in self._random().items():
            for rank, one in enumerate(ranks.gathered(drawn, self.device)):
                tensors[f"random.{kind}.{rank}"] = one
        log = [asdict(row) for row in self.log]
        return Saved(
            tensors=tensors, facts={"step": self.step, "log": log, "seconds": self.spent + seconds}
        )

    def restore(self, saved: Saved, ranks: Ranks) -> None:
        """Stand where the saved run stood.

        Raises:
            CheckpointInvalidError: the state lacks something, or has other shapes.
        """
        self._check(saved, ranks)
        tensors, facts = saved.tensors, saved.facts
        with torch.no_grad():
            for name, own in {**self.trained, **self.kept, "sums": self.sums}.items():
                own.copy_(tensors[name])
        state: dict[int, dict[str, Tensor]] = {}
        for at, name in enumerate(self.trained):
            found = {k: tensors.get(f"adam.{k}.{name}") for k in ("step", "exp_avg", "exp_avg_sq")}
            if found["step"] is not None:  # a weight that had no gradient has no moments
                state[at] = {kind: t for kind, t in found.items() if t is not None}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.shuffle.set_state(tensors["shuffle"])
        torch.set_rng_state(tensors[f"random.cpu.{ranks.rank}"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"random.cuda.{ranks.rank}"], self.device)
        self.step, self.spent = facts["step"], facts["seconds"]
        self.log = [Epoch(**row) for row in facts["log"]]

    def _random(self) -> dict[str, Tensor]:
        """States of the global generators that dropout draws from."""
        found = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            found["cuda"] = torch.cuda.get_rng_state(self.device)
        return found

    def _check(self, saved: Saved, ranks: Ranks) -> None:
        wanted: dict[str, Any] = {n: t.shape for n, t in {**self.trained, **self.kept}.items()}
        wanted |= {"sums": self.sums.shape, "shuffle": self.before.shape}
        wanted |= {f"random.{k}.{ranks.rank}": t.shape for k, t in self._random().items()}
        faults = tuple(
            f"its {name} is missing or has another shape"
            for name, shape in wanted.items()
            if name not in saved.tensors or saved.tensors[name].shape != shape
        )
        if faults:
            raise CheckpointInvalidError(_PLACE, faults[:5])
