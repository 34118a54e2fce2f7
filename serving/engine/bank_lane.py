"""The mixed lane over banks: every layout acts on every sample, so shapes depend on no adapter.

Knows banks' tensors and indices, not adapters or slots. A sample of another layout names row 0, the
identity, so nothing is sorted, and one recording of this forward serves whichever adapters come.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from adapters_store.pixels import normalise
from serving.engine.grouped import Ranks, add_grouped
from serving.engine.lane import MixedLane, Segment
from serving.engine.layout import Layout

LAYOUTS_MOST: Final = 8  # in one batch; each costs its operators on all samples
_BUCKETS: Final = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
_STEP: Final = 32


def bucket(samples: int) -> int:
    """How many samples are computed for so many: sizes are few, so that recordings are."""
    for size in _BUCKETS:
        if samples <= size:
            return size
    return -(-samples // _STEP) * _STEP


@dataclass(frozen=True, slots=True)
class Part:
    """What one layout does in a batch."""

    layout: Layout
    rows: Tensor  # [capacity, L], a bank's
    index: Tensor  # int64 [B]: each sample's row; 0 for samples of other layouts


class BankLane:
    """A twin of the network whose targets act per sample. One batch at a time, one thread."""

    def __init__(
        self, net: nn.Module, targets: Sequence[str], dtype: torch.dtype, ranks: Ranks
    ) -> None:
        """Make the twin.

        Args:
            net: stays as it is.
            targets: everything an adapter may change.
            dtype: of the network.
            ranks: those for which the grouped kernel is used.
        """
        self._lane, self._dtype, self._ranks = MixedLane(net, targets), dtype, ranks

    def features(self, images: Tensor, mean: Tensor, std: Tensor, parts: Sequence[Part]) -> Tensor:
        """uint8 [B, 3, H, W] → float32 [B, features]; mean and std are [B, 3]."""
        at: dict[str, list[Segment]] = {}
        for part in parts:
            rows = part.rows.index_select(0, part.index)  # [B, L], once for all targets
            direct = None
            if self._ranks:
                direct = partial(add_grouped, part.rows, part.index, self._ranks)
            for path, form in part.layout.targets:
                segment = Segment(0, len(images), form, rows, direct)
                at.setdefault(path, []).append(segment)
        inputs = normalise(images, mean, std).to(self._dtype)
        return self._lane.planned(inputs, at).to(torch.float32)
