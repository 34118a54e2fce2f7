"""The effect check: golden images, what an adapter gave for them, and whether it still does.

It catches what no digest can: an adapter that loads well and does nothing, weights that are not
quite those it was trained on, a build of torch that computes something else. Knows no store.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from adapters_store import plain
from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone
from adapters_store.errors import EffectFailedError
from adapters_store.manifest import Effect, Preprocess

GOLDEN: Final = 1  # the version of the set below; a changed set gets another number
GOLDEN_COUNT: Final = 4
TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # relative L2
_BARE_MOST: Final = 64
VISIBLE: Final = 1e-3  # relative L2 by which an adapter must move its head's answer


def golden_images(size: tuple[int, int]) -> NDArray[np.uint8]:
    """A few fixed pictures, drawn by integer arithmetic alone: uint8 [4, 3, H, W]."""
    height, width = size
    c, y, x = np.meshgrid(
        np.arange(3, dtype=np.int64),
        np.arange(height, dtype=np.int64),
        np.arange(width, dtype=np.int64),
        indexing="ij",
    )
    u, v = x * 256 // width, y * 256 // height  # the same picture at every size
    pictures = [
        (u * (c + 1) + v * (3 - c)) // 4,  # ramps
        ((u // 32 + v // 32 + c) % 2) * 200 + 20,  # chequers
        ((u - 128) * (u - 128) + (v - 128) * (v - 128)) * (c + 2) // 128,  # rings
        (u * v * 7 + u * 13 + v * 29 + c * 97) // 16,  # texture
    ]
    return np.stack([p % 256 for p in pictures]).astype(np.uint8)


class Golden:
    """The effect check of one backbone; remembers what the bare network gives."""

    def __init__(self, backbone: Backbone) -> None:
        """Bind the check to a backbone with pristine fp32 weights."""
        self.backbone = backbone
        self._bare: dict[Preprocess, NDArray[np.float32]] = {}

    def record(self, adapter: Adapter) -> Effect:
        """What the plain path gives for the golden images, to be kept in the manifest."""
        pictures = golden_images(adapter.manifest.preprocess.size)
        rows = plain.logits(self.backbone, adapter, pictures)
        return Effect(golden=1, logits=tuple(tuple(float(v) for v in row) for row in rows))

    def check(
        self,
        adapter: Adapter,
        served: NDArray[np.float32] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Hold an admitted adapter to its manifest.

        Args:
            adapter: admitted for this backbone.
            served: logits of the golden images as an engine computed them, [4, labels]; without
                them the plain path computes them.
            dtype: in which `served` was computed; decides the tolerance.

        Raises:
            EffectFailedError: no record, or answers that are not finite, not the recorded ones, or
                not different from the bare backbone's although targets are changed.
        """
        manifest = adapter.manifest
        if manifest.effect is None:
            raise EffectFailedError(manifest.task, ("the manifest holds no effect record",))
        recorded = np.asarray(manifest.effect.logits, dtype=np.float64)
        if served is None:
            served = plain.logits(self.backbone, adapter, golden_images(manifest.preprocess.size))
        faults: list[str] = []
        if recorded.shape != served.shape:
            faults.append(f"the record has shape {recorded.shape}, the answers {served.shape}")
        elif not np.abs(recorded).max() <= np.finfo(np.float32).max:
            faults.append("the record holds values that no logit can have")
        elif not np.isfinite(served).all():
            faults.append("the golden images give NaN or infinite logits")
        elif not (distance := relative(served, recorded)) <= TOLERANCE[dtype]:  # NaN is no pass
            faults.append(
                f"the golden images give other logits than recorded: {distance:.3g} relative, "
                f"more than {TOLERANCE[dtype]:g}"
            )
        elif adapter.factors and not relative(self._bare_logits(adapter), recorded) >= VISIBLE:
            faults.append("its factors change nothing: the bare backbone gives the same logits")
        if faults:
            raise EffectFailedError(manifest.task, tuple(faults))

    def _bare_logits(self, adapter: Adapter) -> NDArray[np.float32]:
        """The adapter's head on the bare backbone's features of the golden images."""
        preprocess = adapter.manifest.preprocess
        if preprocess not in self._bare:
            if len(self._bare) >= _BARE_MOST:
                self._bare.clear()  # artifacts choose the preprocessing, so it is bounded
            pictures = golden_images(preprocess.size)
            self._bare[preprocess] = plain.vectors(self.backbone.net, preprocess, pictures)
        return self._bare[preprocess] @ adapter.head_weight.T + adapter.head_bias


def relative(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """‖a − b‖ / ‖b‖ over all values."""
    scale = float(np.linalg.norm(np.asarray(b, dtype=np.float64)))
    gap = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return float(np.linalg.norm(gap)) / max(scale, 1e-12)
