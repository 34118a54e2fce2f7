"""Room for the pixels of many pictures: in memory, or in a file where they are too many.

Knows no picture. A data set of birds at 224 pixels is larger than many a machine's memory; the
operating system keeps of such a file what is in use.
"""

import math
import os
import tempfile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.errors import PixelsTooManyError

MEMORY_MAX: Final = 2 * 2**30  # bytes of one array that are still kept in memory


def room(shape: tuple[int, ...], memory_max: int = MEMORY_MAX) -> NDArray[np.uint8]:
    """An array of bytes of this shape, to be filled.

    Beyond `memory_max` it lies in a temporary file that has no name and goes with the array.

    Raises:
        PixelsTooManyError: the disk of temporary files has less room.
    """
    size = math.prod(shape)
    if size <= memory_max:
        return np.empty(shape, dtype=np.uint8)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                # A full disk is found out here; later it would end the process without a word.
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
    except OSError as error:
        raise PixelsTooManyError(size, tempfile.gettempdir(), error.strerror or "") from None


def chosen(
    array: NDArray[np.uint8], rows: NDArray[np.integer], memory_max: int = MEMORY_MAX
) -> NDArray[np.uint8]:
    """The rows of an array, in that order, copied to room of their own."""
    found = room((len(rows), *array.shape[1:]), memory_max)
    for to, row in enumerate(rows):
        found[to] = array[row]
    return found


def joined(parts: tuple[NDArray[np.uint8], ...], memory_max: int = MEMORY_MAX) -> NDArray[np.uint8]:
    """Arrays one behind the other, copied to room of their own."""
    found = room((sum(map(len, parts)), *parts[0].shape[1:]), memory_max)
    at = 0
    for part in parts:
        found[at : at + len(part)] = part
        at += len(part)
    return found
