"""One answer for all who ask at about the same time. Knows neither question nor asker."""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lately(Generic[T]):
    """A question that is asked once at a time, and whose answer holds for a moment."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        holds_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            ask: the question; whatever it raises, all hear who asked meanwhile.
            holds_s: how long an answer holds.
            clock: in seconds.
        """
        self._ask, self._holds_s, self._clock = ask, holds_s, clock
        self._asking: asyncio.Task[T] | None = None
        self._since = 0.0  # when it was answered

    async def __call__(self) -> T:
        """The answer, at most so old."""
        if self._asking is None or self._is_old(self._asking):
            # In a context of its own: Serve ends what belongs to a request when its client leaves.
            self._asking = asyncio.get_running_loop().create_task(
                self._asked(), context=contextvars.Context()
            )
        # One who leaves takes nobody along.
        return await asyncio.shield(self._asking)

    async def _asked(self) -> T:
        try:
            return await self._ask()
        finally:
            self._since = self._clock()

    def _is_old(self, asking: "asyncio.Task[T]") -> bool:
        if not asking.done():
            return asking.get_loop() is not asyncio.get_running_loop()
        failed = asking.cancelled() or asking.exception() is not None
        return failed or self._clock() - self._since >= self._holds_s
