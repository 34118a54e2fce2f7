"""How training holds memory, and what happens when it runs out. Knows no network and no image."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from training.errors import MemoryExhaustedError

# Of glibc's mallopt: its parameters, and what they are where nobody says otherwise.
_TRIM_THRESHOLD: Final = -1
_TRIM_DEFAULT: Final = 128 * 1024
_MMAP_MAX: Final = -4
_MMAP_DEFAULT: Final = 65_536


@contextmanager
def holding_freed() -> Iterator[None]:
    """Inside, this process keeps the memory that it frees; on leaving, the system gets it back.

    A training step frees its activations and the next one wants as much. glibc would give them back
    in between, and every page would be mapped and zeroed anew: 3 to 10 % of a step on a CPU
    (docs/log.md, 2026-11-22). Does nothing on another libc, or where the environment sets glibc's
    allocator.
    """
    libc = ctypes.CDLL(None)
    told = any(name.startswith("MALLOC_") for name in os.environ) or (
        "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    )
    if told or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)  # blocks of their own are given back at once
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, _TRIM_DEFAULT)
        libc.mallopt(_MMAP_MAX, _MMAP_DEFAULT)
        libc.malloc_trim(0)


@contextmanager
def within_memory(device: torch.device, batch: int) -> Iterator[None]:
    """Say what to lower where the device or the machine has no room for what is done inside.

    What is freed inside is held until the end.

    Raises:
        MemoryExhaustedError: an allocation of torch's or of numpy's failed.
    """
    try:
        with holding_freed():
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
