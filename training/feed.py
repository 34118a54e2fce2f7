"""Images and labels on their way to the device. Knows no network and no folder.

On an accelerator a whole split lies there as bytes where it fits; else each batch is copied from
pinned memory, without waiting for it.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.augment import augmented, source
from training.data import Split
from training.recipe import Augment

_ROOM: Final = 0.25  # of the device's free memory that one array may take
_CHUNK: Final = 1024  # images copied at once


class Feed:
    """One split, batch by batch."""

    def __init__(
        self, split: Split, device: torch.device, augment: Augment = "none", seed: int = 0
    ) -> None:
        """Place what fits; `augment` and `seed` are of what is trained on.

        Raises:
            RecipeInvalidError: crops are wanted, and the images were read without a margin.
        """
        self._device, self._augment, self._seed = device, augment, seed
        self._size: tuple[int, int] = split.images.shape[2:]
        self._images = _Rows(split.images, device)
        self._wide = self._images
        if augment != "none":
            self._wide = _Rows(source(split, augment), device)
        self._labels = torch.from_numpy(split.labels).to(device)

    def __len__(self) -> int:
        return len(self._labels)

    def images(self, rows: Tensor) -> Tensor:
        """As they are served: uint8 [B, 3, H, W] on the device, for rows [B] on the CPU."""
        return self._images.of(rows)

    def drawn(self, rows: Tensor, epoch: int) -> Tensor:
        """As chance has them in this epoch, counted from 1: the same shape."""
        images = self._wide.of(rows)
        if self._augment == "none":
            return images
        return augmented(images, rows.tolist(), epoch=epoch, seed=self._seed, size=self._size)

    def labels(self, rows: Tensor) -> Tensor:
        """int64 [B] on the device, for rows [B] on the CPU."""
        return self._labels[_sent(rows, self._device)]


class _Rows:
    """An array of images of which rows can be had on the device."""

    def __init__(self, array: NDArray[np.uint8], device: torch.device) -> None:
        self._array, self._device = array, device
        self._placed: Tensor | None = None
        if device.type == "cuda" and array.nbytes <= _ROOM * torch.cuda.mem_get_info(device)[0]:
            self._placed = torch.empty(array.shape, dtype=torch.uint8, device=device)
            for at in range(0, len(array), _CHUNK):
                part = torch.from_numpy(np.array(array[at : at + _CHUNK]))
                self._placed[at : at + _CHUNK] = part.to(device)

    def of(self, rows: Tensor) -> Tensor:
        if self._placed is not None:
            return self._placed[_sent(rows, self._device)]
        return _sent(torch.from_numpy(self._array[rows.numpy()]), self._device)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
