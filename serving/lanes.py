"""Threads for what may block: what only looks has its own. Knows neither Ray nor what is called.

Calls that wait for a store or a load come in whole rows when much is published. How a replica is
must be known all the same, or those who ask take it for dead.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

T = TypeVar("T")

SLOW: Final = 16  # that may block at once, so that none waits for another
_LOOKS: Final = 2


class Lanes:
    """The threads of one replica beside its event loop."""

    def __init__(self) -> None:
        self._slow = ThreadPoolExecutor(SLOW, thread_name_prefix="rootstock-call")
        self._looks = ThreadPoolExecutor(_LOOKS, thread_name_prefix="rootstock-look")

    async def aside(self, blocking: Callable[..., T], *args: Any) -> T:
        """Run what may take its time."""
        return await self._run(self._slow, blocking, *args)

    async def look(self, looking: Callable[..., T], *args: Any) -> T:
        """Run what is over in a moment, however many wait aside."""
        return await self._run(self._looks, looking, *args)

    def close(self) -> None:
        """Begin nothing more."""
        for pool in (self._slow, self._looks):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, partial(work, *args))
