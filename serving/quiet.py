"""Whether anybody is waiting for this replica just now. Knows a clock, and not what is done.

Work that nobody waits for (bringing adapters in, proving them before they are asked for) runs in
the same process as the engine. It asks here before every small step.
"""

import threading
import time
from collections.abc import Callable

_LOOK_S = 0.05  # between looks at whether waiting still makes sense


class Quiet:
    """Counts what is under way; threads may share it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = 0
        self._since = time.monotonic()  # when the last of it ended

    def begin(self, count: int = 1) -> None:
        """So many more things that somebody waits for."""
        with self._changed:
            self._busy += count

    def end(self, count: int = 1) -> None:
        """So many of them are done."""
        with self._changed:
            self._busy -= count
            if not self._busy:
                self._since = time.monotonic()
                self._changed.notify_all()

    def wait(self, calm_s: float, patience_s: float, unless: Callable[[], bool]) -> None:
        """Return when nothing has been under way for a while.

        Args:
            calm_s: for how long.
            patience_s: after which to return all the same.
            unless: asked now and then; its yes ends the waiting.
        """
        until = time.monotonic() + patience_s
        with self._changed:
            while not unless():
                now = time.monotonic()
                left = until - now
                if not self._busy:
                    left = min(left, self._since + calm_s - now)
                if left <= 0:
                    return
                self._changed.wait(min(left, _LOOK_S))

    def check(self) -> None:
        """Verify the count.

        Raises:
            AssertionError: something ended that had not begun.
        """
        assert self._busy >= 0
