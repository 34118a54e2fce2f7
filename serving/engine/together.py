"""Samples of one picture whose adapters are heads alone, as one sample of the trunk.

Knows tensors and prepared adapters; which picture is whose, the arrays themselves say.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from serving.engine.merged import Folded
from serving.engine.prepared import Prepared

# Of one joined head, which is a copy: 50 MB at 768 features. Copying as many takes about as long as
# a small network's forward, and far longer where there are more.
ROWS_MAX: Final = 16_384


@dataclass(frozen=True, slots=True)
class Together:
    """A batch in which no forward is done twice."""

    pixels: NDArray[np.uint8]  # [forwards, 3, H, W]
    adapters: Sequence[Prepared | Folded]  # of each forward
    places: Sequence[tuple[int, int, int]]  # of each sample: its forward, first and last + 1 label

    def apart(self, logits: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Every sample's own logits out of those of the forwards."""
        return [logits[forward][start:stop] for forward, start, stop in self.places]


def together(
    pictures: Sequence[NDArray[np.uint8]],
    adapters: Sequence[Prepared | Folded],
    rows_max: int = ROWS_MAX,
) -> Together:
    """Join the heads of samples that hold the same picture.

    Args:
        pictures: uint8 [3, H, W] of each sample; the same array means the same preprocessing.
        adapters: of each sample, on the engine's device.
        rows_max: labels of heads that are joined; what is more has a forward of its own.
    """
    members: list[list[int]] = []
    known: dict[int, tuple[list[int], int]] = {}  # by picture: the forward, and its rows so far
    for i, adapter in enumerate(adapters):
        if isinstance(adapter, Folded) or adapter.layout.targets:
            members.append([i])
            continue
        mine, rows = known.get(id(pictures[i]), ([], 0))
        if not mine or rows + len(adapter.bias) > rows_max:
            members.append(mine := [])
            rows = 0
        mine.append(i)
        known[id(pictures[i])] = mine, rows + len(adapter.bias)
    places = [(0, 0, 0)] * len(adapters)
    joined: list[Prepared | Folded] = []
    for forward, mine in enumerate(members):
        heads = [adapters[i] for i in mine]
        start = 0
        for i, adapter in zip(mine, heads, strict=True):
            head = adapter.head if isinstance(adapter, Folded) else adapter
            places[i] = (forward, start, start + len(head.bias))
            start = places[i][2]
        joined.append(_joined(heads))
    return Together(np.stack([pictures[mine[0]] for mine in members]), joined, places)


def _joined(heads: Sequence[Prepared | Folded]) -> Prepared | Folded:
    """One adapter with the rows of all these heads."""
    first = heads[0]
    if len(heads) == 1 or isinstance(first, Folded):
        return first
    whole = [head for head in heads if isinstance(head, Prepared)]
    weight, bias = torch.cat([h.weight for h in whole]), torch.cat([h.bias for h in whole])
    return replace(first, weight=weight, bias=bias)
