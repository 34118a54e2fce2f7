"""How training holds memory, and what happens when it runs out. Knows no network and no image."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from training.errors import MemoryExhaustedError

# Of glibc's mallopt.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MMAP_MAX: Final = -4
_NEVER: Final = -1
# Setting any of them ends glibc's own adapting for good, so what stays is where that would end.
_MMAP_THRESHOLD_MOST: Final = 2**25
_TRIM_THRESHOLD_MOST: Final = 2**26
_MMAP_MAX_DEFAULT: Final = 65_536

_SET_BY: Final = ("TRIM_THRESHOLD", "MMAP_MAX", "MMAP_THRESHOLD", "TOP_PAD")

_lock = threading.Lock()
_holders = 0  # how many are inside, in any thread


@contextmanager
def holding_freed() -> Iterator[None]:
    """Inside, this process keeps the memory that it frees; on leaving, the system gets it back.

    A training step frees its activations and the next one wants as much. glibc would give them back
    in between, and every page would be mapped and zeroed anew: 2 to 8 % of a step's CPU time
    (docs/log.md, 2026-11-22). Does nothing on another libc, or where the environment says what is
    to be given back.
    """
    global _holders  # noqa: PLW0603 (as the allocator is: one in a process)
    libc = ctypes.CDLL(None)
    if set_by_environment() or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    with _lock:
        _holders += 1
        libc.mallopt(_MMAP_MAX, 0)  # blocks of their own are given back at once
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders:
                libc.mallopt(_TRIM_THRESHOLD, _TRIM_THRESHOLD_MOST)
                libc.mallopt(_MMAP_THRESHOLD, _MMAP_THRESHOLD_MOST)
                libc.mallopt(_MMAP_MAX, _MMAP_MAX_DEFAULT)
                libc.malloc_trim(0)


def set_by_environment() -> bool:
    """Whether the user decides what glibc gives back."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return any(
        f"MALLOC_{name}_" in os.environ or f"glibc.malloc.{name.lower()}" in tunables
        for name in _SET_BY
    )


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
