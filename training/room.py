"""Memory: how it is kept small, and what happens when it runs out. Knows no network, no image."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from training.errors import MemoryExhaustedError

_MMAP_THRESHOLD: Final = -3  # glibc's name for it, malloc.h
_APART: Final = 2**20  # bytes from which on a block of memory is mapped for itself


@contextmanager
def within_memory(device: torch.device, batch: int) -> Iterator[None]:
    """Say what to lower where the device or the machine has no room for what is done inside.

    Raises:
        MemoryExhaustedError: an allocation of torch's or of numpy's failed.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise MemoryExhaustedError(device.type, batch) from None
    except MemoryError:
        raise MemoryExhaustedError("this machine", batch) from None
    except RuntimeError as error:
        # On the CPU torch has no class for it.
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise MemoryExhaustedError("this machine", batch) from None


def keep_compact() -> None:
    """Let freed activations leave the process, for as long as it lives; on glibc alone.

    Left to itself, glibc keeps what was freed in one heap, whose holes made a step of the bundled
    backbone (batch 64, bf16) peak at 295 MB of which 180 MB were in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _APART)
