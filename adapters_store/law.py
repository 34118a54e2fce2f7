"""The law: training module = normal form unmerged = merged weights. Knows no store and no server.

One contract test runs it over every method in float64; the trainer runs it again at export, on
real images, before any artifact is written.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adapters_store import plain
from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone
from adapters_store.effect import relative
from adapters_store.errors import LawBrokenError
from adapters_store.methods.table import lower

BOUND: Final = 1e-3  # relative L2 in fp32: scales up to 100 occur, so rounding is amplified


@dataclass(frozen=True, slots=True)
class LawReport:
    """How far the paths lie apart on the images that were tried, relative L2."""

    trained: float  # module in training against the unmerged normal form
    merged: float  # merged weights against the unmerged normal form


def check(
    backbone: Backbone,
    adapter: Adapter,
    pictures: NDArray[np.uint8],
    trained: NDArray[np.float32] | None = None,
) -> LawReport:
    """Compare the three paths on real images.

    Args:
        backbone: pristine fp32 weights.
        adapter: as it will be written, factors already rounded.
        pictures: uint8 [B, 3, H, W].
        trained: logits of the training module with the same rounded factors, [B, labels].

    Raises:
        LawBrokenError: a path differs from the unmerged normal form by more than the bound.
    """
    form = lower(adapter, backbone.spec)
    unmerged = plain.logits(backbone, adapter, pictures)
    merged = relative(plain.answers(plain.merged(backbone.net, form), adapter, pictures), unmerged)
    module = 0.0 if trained is None else relative(trained, unmerged)
    if not max(module, merged) <= BOUND:
        raise LawBrokenError(adapter.manifest.method, max(module, merged), BOUND)
    return LawReport(trained=module, merged=merged)
