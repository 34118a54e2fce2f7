"""The heads of a target: how many, which outputs are theirs, which are on. Knows no paper."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from adapters_store.methods.protocol import Factors
from adapters_store.normal_form import Index
from adapters_store.spec import Target

HEADS: Final = "heads"  # the stored list of active heads
HEADS_MOST: Final = 256  # of a list whose entries are bytes
_GROUP: Final = 64  # outputs, where nothing says what a head is
_THIRDS: Final = {"q": 0, "v": 2}  # of timm's fused projection


class ActiveHeads(Factors):
    """Which heads are on: one list, for all the sites that are judged together."""

    on: Tensor  # bool [H]

    def __init__(self, heads: int, kept: int) -> None:
        super().__init__()
        self.kept = kept
        self.register_buffer("on", torch.arange(heads) < kept)

    def factors(self) -> dict[str, Tensor]:
        """The active heads, ascending."""
        listed = self.on.nonzero().flatten().to(torch.uint8)
        assert len(listed) == self.kept, "heads must be chosen before they are stored"
        return {HEADS: listed}

    def load(self, factors: Mapping[str, Tensor]) -> None:
        """The inverse of `factors`."""
        self.on.zero_()
        self.on[factors[HEADS].long()] = True


def groups(target: Target) -> tuple[int, int, dict[str, int]]:
    """(heads, outputs of one, first output of each adapted part by the ending of its factors)."""
    if target.heads:
        third = target.outputs // 3
        starts = {f"_{part}": at * third for part, at in _THIRDS.items()}
        return target.heads, third // target.heads, starts
    width = next(w for w in range(_GROUP, 0, -1) if target.outputs % w == 0)
    return target.outputs // width, width, {"": 0}


def rows_of(heads: Tensor, target: Target, start: int) -> Index:
    """The outputs of the listed heads in the part that begins at `start`."""
    count, width, _ = groups(target)
    if len(heads) == count:
        return slice(start, start + count * width)  # a run is faster than a list
    within = torch.arange(width, device=heads.device)
    return (start + heads.long()[:, None] * width + within).flatten()
