"""The Ray shell around one replica: when things run, and on which thread. Decides nothing.

In throughput mode this code shares its event loop with Serve itself, so nothing here may block:
whatever can take longer than a moment runs on a thread of its own.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from fastapi import FastAPI
from ray import serve

from serving import api
from serving.app import check_environment
from serving.config import Settings
from serving.replica import Replica

log = logging.getLogger(__name__)

NAME: Final = "rootstock"
CALLS: Final = 4  # broadcast targets that may block at once: a slow catch-up must not hold a scrape


class ReplicaUnwellError(RuntimeError):
    """Raised to Serve, which replaces a replica whose health check fails three times running."""


class RayFleet:
    """All replicas of one deployment, reached by broadcast; keeps the promise of `Fleet`."""

    def __init__(self, deployment: str, application: str, replicas: int) -> None:
        self._deployment, self._application = deployment, application
        self._replicas = replicas
        self._handle: Any = None  # made on first use: it wants the loop that serves requests

    def expected(self) -> int:
        """How many replicas should answer a broadcast."""
        return self._replicas

    async def broadcast(self, method: str, *args: Any, timeout_s: float = 2.0) -> Sequence[Any]:
        """What each replica that answered in time returned, in no order; never raises for one."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            if self._handle is None:
                self._handle = serve.get_deployment_handle(self._deployment, self._application)
            # Not `results_async`: it drops every answer when the slowest one is late.
            sent = self._handle.broadcast("call", method, *args)._fetch_replica_results_async()
            replies = await asyncio.wait_for(sent, timeout_s)
        except Exception:  # no replica known yet, or the controller is away: nobody answered
            log.warning("broadcast was not sent", extra={"method": method}, exc_info=True)
            return []
        waiting = [asyncio.ensure_future(reply.get_async()) for reply in replies]
        left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        done, late = await asyncio.wait(waiting, timeout=left_s)
        for task in late:
            task.cancel()
        failed = [task for task in done if task.cancelled() or task.exception() is not None]
        if late or failed:
            log.warning(
                "broadcast was not answered by all",
                extra={"method": method, "late": len(late), "failed": len(failed)},
            )
        return [task.result() for task in done if task not in failed]


class Shell:
    """One replica as Ray Serve sees it."""

    def __init__(self, settings_json: str) -> None:
        self._settings = Settings.model_validate_json(settings_json)
        self._calls = ThreadPoolExecutor(CALLS, thread_name_prefix="rootstock-call")
        self._replica: Replica | None = None

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the replica, which takes seconds, and then the door in front of it."""
        check_environment(self._settings)
        here = serve.get_replica_context()
        loop = asyncio.get_running_loop()
        self._replica = await loop.run_in_executor(
            self._calls, Replica, self._settings, here.replica_tag
        )
        fleet = RayFleet(here.deployment, here.app_name, self._settings.replicas)
        return api.build(self._replica, fleet)

    async def call(self, method: str, *args: Any) -> Any:
        """The target of every broadcast."""
        if self._replica is None:
            raise ReplicaUnwellError("not built yet")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._calls, self._replica.call, method, *args)

    async def check_health(self) -> None:
        """Asked by Serve every few seconds; on the loop, so that busy threads do not look sick."""
        if self._replica is not None and not self._replica.healthy():
            raise ReplicaUnwellError("the replica says that it is not healthy")

    async def __del__(self) -> None:
        """Called once by Serve after the last request has been answered."""
        if self._replica is not None:
            replica, self._replica = self._replica, None
            await asyncio.get_running_loop().run_in_executor(None, replica.close)
        self._calls.shutdown(wait=False, cancel_futures=True)
