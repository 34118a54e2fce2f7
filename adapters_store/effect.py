"""The effect check: golden images, what an adapter gave for them, and whether it still does.

It catches what no digest can: an adapter that loads well and does nothing, weights that are not
quite those it was trained on, a build of torch that computes something else. Knows no store.
"""

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, eq=False)
class Promise:
    """What an adapter's manifest says the golden images give: all that the check needs of it."""

    task: str
    preprocess: Preprocess
    logits: NDArray[np.float64]  # [4, labels], as recorded
    alters: bool  # whether it has factors, which must then show

    @classmethod
    def of(cls, adapter: Adapter) -> "Promise":
        """The promise of an admitted adapter.

        Raises:
            EffectFailedError: it makes none.
        """
        manifest = adapter.manifest
        if manifest.effect is None:
            raise EffectFailedError(manifest.task, ("the manifest holds no effect record",))
        return cls(
            task=manifest.task,
            preprocess=manifest.preprocess,
            logits=np.asarray(manifest.effect.logits, dtype=np.float64),
            alters=bool(adapter.factors),
        )


class Golden:
    """The effect check of one backbone; remembers what the bare network gives."""

    def __init__(self, backbone: Backbone) -> None:
        """Bind the check to a backbone with pristine fp32 weights."""
        self.backbone = backbone
        # The pictures have the input's size: of a preprocessing only mean and std touch them.
        self._bare: dict[tuple[float, ...], NDArray[np.float32]] = {}

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
            served: logits of the golden images, [4, labels]; without them the plain path computes.
            dtype: in which `served` was computed.

        Raises:
            EffectFailedError: as `hold`; or the manifest holds no record.
        """
        promise = Promise.of(adapter)
        if served is None:
            served = plain.logits(self.backbone, adapter, golden_images(promise.preprocess.size))
        self.hold(promise, served, adapter.head_weight, adapter.head_bias, dtype)

    def hold(
        self,
        promise: Promise,
        served: NDArray[np.float32],
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Hold an adapter to its promise.

        Args:
            promise: of an adapter that was admitted for this backbone.
            served: logits of the golden images as they were computed, [4, labels].
            weight: of its head, [labels, features].
            bias: of its head, [labels].
            dtype: in which `served` was computed; decides the tolerance.

        Raises:
            EffectFailedError: answers that are not finite, not the recorded ones, or not different
                from the bare backbone's although targets are changed.
        """
        recorded, faults = promise.logits, list[str]()
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
        elif promise.alters:
            bare = self.bare(promise.preprocess) @ weight.T + bias
            if not relative(bare, recorded) >= VISIBLE:
                faults.append("its factors change nothing: the bare backbone gives the same logits")
        if faults:
            raise EffectFailedError(promise.task, tuple(faults))

    def bare(self, preprocess: Preprocess) -> NDArray[np.float32]:
        """The bare backbone's fp32 features of the golden images, [4, features].

        Computed once for each mean and std; a server asks before it answers anybody.
        """
        key = (*preprocess.mean, *preprocess.std)
        found = self._bare.get(key)
        if found is None:
            pictures = golden_images(preprocess.size)
            found = plain.vectors(self.backbone.net, preprocess, pictures)
            if len(self._bare) >= _BARE_MOST:
                self._bare.clear()  # artifacts choose the preprocessing, so it is bounded
            self._bare[key] = found
        return found


def relative(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """‖a − b‖ / ‖b‖ over all values."""
    scale = float(np.linalg.norm(np.asarray(b, dtype=np.float64)))
    gap = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return float(np.linalg.norm(gap)) / max(scale, 1e-12)
