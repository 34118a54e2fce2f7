"""A few threads for work that nobody waits for. Knows neither what it is nor when it is welcome."""

import logging
import threading
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

Chore = Callable[[], None]

_REST_S: Final = 1.0  # after it could not be found out what is to be done next


class Background:
    """Asks for the next chore, does it, and sleeps while there is none."""

    def __init__(self, chore: Callable[[], Chore | None], threads: int) -> None:
        """No thread yet: the first `wake` starts them.

        Args:
            chore: takes what is to be done next; None: nothing just now.
            threads: how many at once.
        """
        self._chore, self._count = chore, threads
        self._changed = threading.Condition()
        self._woken, self._closed = 0, False
        self._threads: list[threading.Thread] = []

    @property
    def closed(self) -> bool:
        """Whether what is under way should come to its end."""
        return self._closed

    def wake(self) -> None:
        """There may be something to do."""
        with self._changed:
            if self._closed:
                return
            self._woken += 1
            self._changed.notify_all()
            while len(self._threads) < self._count:
                name = f"rootstock-background-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
                self._threads[-1].start()

    def rest(self, seconds: float) -> None:
        """Do nothing in this thread for a while; closing ends it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def close(self) -> None:
        """Wait for the chores that are under way; there will be no others."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        seen = 0
        while not self._closed:
            try:
                chore = self._chore()
            except Exception:  # the next look may go better
                log.exception("no chore could be found")
                self.rest(_REST_S)
                continue
            if chore is None:
                with self._changed:
                    while self._woken == seen and not self.closed:
                        self._changed.wait()
                    seen = self._woken
                continue
            try:
                chore()
            except Exception:  # the next one may go better
                log.exception("a chore failed")
