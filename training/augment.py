"""What chance does to a training image: nothing, or a crop and a flip. Knows no file, no network.

`crop_flip` is the protocol of VPT and ARC on FGVC (methods.md §9): resized to 256, cut to 224 at a
random place, mirrored half of the time. SSF cuts a random share of the original instead; that
would keep every original in memory or decode it anew each epoch, and resample it each time. Here a
picture is decoded before training, to the margin that the cut needs, and not resampled again.

Nothing is remembered between calls: an image's chance follows from (seed, epoch, row) alone, so
that a run which was interrupted, or whose batches are dealt to several processes, sees the same.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional

from adapters_store.manifest import Preprocess
from training.data import Split
from training.errors import RecipeInvalidError
from training.recipe import Augment

MARGIN: Final = 256 / 224


def wide(preprocess: Preprocess) -> Preprocess:
    """The geometry that crops are drawn from: the one that is served, with a margin around it.

    Where what is served is cut from the middle, the margin is what was cut off: the square of
    size / crop_pct. Else the picture is enlarged by 8/7, and no part of it stays outside.
    """
    height, width = preprocess.size
    if preprocess.geometry == "timm" and preprocess.crop_pct < 1:
        side = math.floor(max(height, width) / preprocess.crop_pct)
        return preprocess.model_copy(update={"size": (side, side), "crop_pct": 1.0})
    size = (round(height * MARGIN), round(width * MARGIN))
    return preprocess.model_copy(update={"size": size})


def source(split: Split, augment: Augment) -> NDArray[np.uint8]:
    """What a training batch is taken from: [N, 3, H, W], or with a margin where crops are drawn.

    Raises:
        RecipeInvalidError: crops are wanted, and the images were read without a margin.
    """
    if augment == "none":
        return split.images
    if split.wide is None:
        fault = f"augment {augment} wants images that were read with a margin for it"
        raise RecipeInvalidError((fault,))
    return split.wide


def augmented(
    images: Tensor, rows: Sequence[int], *, epoch: int, seed: int, size: tuple[int, int]
) -> Tensor:
    """Each image cut at its own random place, and mirrored with probability one half.

    Args:
        images: uint8 [B, 3, H', W'] with a margin, on any device.
        rows: [B], the position of each in its split, whatever the batch.
        epoch: from 1.
        seed: of the run.
        size: h, w of what comes out.

    Returns:
        uint8 [B, 3, h, w] on the same device
    """
    height, width = size
    parts = []
    for image, row in zip(images, rows, strict=True):
        chance = np.random.default_rng((seed, epoch, row))
        top = int(chance.integers(image.shape[1] - height + 1))
        left = int(chance.integers(image.shape[2] - width + 1))
        part = functional.crop_image(image, top, left, height, width)
        parts.append(functional.horizontal_flip_image(part) if chance.random() < 0.5 else part)
    return torch.stack(parts)
