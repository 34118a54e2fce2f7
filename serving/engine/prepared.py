"""An adapter as an engine executes it. Knows tensors, and neither slots nor where it came from."""

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from serving.engine.bank import Row
from serving.engine.layout import Layout
from serving.engine.program import Programs


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An adapter as the engine executes it, in host memory or on the device.

    With `programs` the row is packed for the native kernel; without, it lies as the layout says.
    """

    layout: Layout
    row: Tensor  # [layout.size] in the engine's dtype, or uint8 [programs.size]
    weight: Tensor  # head, float32 [labels, features]
    bias: Tensor  # float32 [labels]
    mean: Tensor  # float32 [3], of inputs in [0, 1]
    std: Tensor  # float32 [3]
    programs: Programs | None = None
    at: Row | None = None  # where its row is, when that is in a bank

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        return sum(
            t.numel() * t.element_size()
            for t in (self.row, self.weight, self.bias, self.mean, self.std)
        )

    def checksum(self) -> str:
        """Sha256 of the row and head, wherever they are."""
        proof = hashlib.sha256()
        for t in (self.row, self.weight, self.bias):
            proof.update(t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return proof.hexdigest()

    def to(self, device: torch.device) -> "Prepared":
        """A copy on the device; itself where it is there already."""
        if self.row.device == device:
            return self
        moved = {n: getattr(self, n).to(device) for n in ("row", "weight", "bias", "mean", "std")}
        return replace(self, **moved, at=None)
