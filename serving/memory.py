"""Memory that was freed goes back to the system. Knows glibc's allocator, and nothing of ours.

Loading an adapter frees several times its size. The allocator keeps such holes, and after a
thousand loads a process held 1.6 times what it used (docs/log.md, 2026-11-21).
"""

import ctypes
import threading
from typing import Final

_EVERY: Final = 256  # loads: a trim walks the heap, so not after each


class Tidier:
    """Counts loads, and gives memory back now and then; threads may share it."""

    def __init__(self) -> None:
        """Do nothing where the allocator is another."""
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._loads, self._lock = 0, threading.Lock()

    def loaded(self) -> None:
        """One more load is over."""
        with self._lock:
            self._loads += 1
            due = self._loads % _EVERY == 0
        if due and self._trim is not None:
            self._trim(0)
