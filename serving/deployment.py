"""The Ray shell around one replica: when things run, and on which thread. Decides nothing.

In throughput mode this code shares its event loop with Serve itself, so nothing here may block:
whatever can take longer than a moment runs on a thread of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from ray import serve
from ray.serve import context
from ray.serve._private import replica as serve_replica

from adapters_store.errors import RootstockError
from serving.config import Settings

if TYPE_CHECKING:
    from serving.replica import Replica

log = logging.getLogger(__name__)

NAME: Final = "rootstock"
CALLS: Final = 16  # broadcast targets that may block at once, so that none waits for another


class ReplicaUnbuiltError(RuntimeError):
    """The replica could not be built; the last line of Serve's report is this reason."""


class ReplicaUnwellError(RuntimeError):
    """Raised to Serve, which replaces a replica whose health check keeps failing."""


class RayFleet:
    """All replicas of one deployment, reached by broadcast; keeps the promise of `Fleet`."""

    def __init__(self, deployment: str, application: str, replicas: int) -> None:
        self._deployment, self._application = deployment, application
        self._replicas = replicas
        self._handle: Any = None  # made on first use: it wants the loop that serves requests

    def expected(self) -> int:
        """How many replicas should answer a broadcast."""
        return self._replicas

    def request_id(self) -> str:
        """Serve's name for the request that is being handled; empty outside of one."""
        return str(context._get_serve_request_context().request_id)  # noqa: SLF001 (no other way)

    async def broadcast(self, method: str, *args: Any, timeout_s: float = 2.0) -> Sequence[Any]:
        """What each replica that answered in time returned, in no order; never raises for one."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            if self._handle is None:
                self._handle = serve.get_deployment_handle(self._deployment, self._application)
            # Not `results_async`: one late replica would make it drop the others' answers.
            sent = self._handle.broadcast("call", method, *args)
            replies = await asyncio.wait_for(sent._fetch_replica_results_async(), timeout_s)  # noqa: SLF001
        except Exception:
            log.warning("broadcast not sent", extra={"method": method}, exc_info=True)
            return []
        waiting = [asyncio.ensure_future(reply.get_async()) for reply in replies]
        done, late = await asyncio.wait(waiting, timeout=max(0.0, deadline - loop.time()))
        for task in late:
            task.cancel()
        answered = [task for task in done if not task.cancelled() and task.exception() is None]
        if len(answered) < len(waiting):
            failed = next((task.exception() for task in done if task not in answered), None)
            log.warning(
                "broadcast not answered by all",
                extra={"method": method, "late": len(late), "failed": repr(failed)},
            )
        return [task.result() for task in answered]


class Shell:
    """One replica as Ray Serve sees it."""

    def __init__(
        self, settings_json: str, check: Callable[[Settings], None], *, on_loopback: bool
    ) -> None:
        """Build nothing yet.

        Args:
            settings_json: of `Settings`.
            check: raises where Ray's environment on this node does not fit.
            on_loopback: no other node has to reach this one.
        """
        self._settings, self._check = Settings.model_validate_json(settings_json), check
        _speak()
        self._calls = ThreadPoolExecutor(CALLS, thread_name_prefix="rootstock-call")
        self._replica: Replica | None = None
        if on_loopback:
            _stay_on_loopback()

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the replica, which takes seconds, and then the door in front of it.

        Raises:
            ReplicaUnbuiltError: whatever went wrong, in one line.
        """
        here = serve.get_replica_context()
        loop = asyncio.get_running_loop()
        try:
            self._check(self._settings)
            fleet = RayFleet(here.deployment, here.app_name, self._settings.replicas)
            self._replica, app = await loop.run_in_executor(
                self._calls, _build, self._settings, here.replica_tag, fleet
            )
        except Exception as error:
            name = "" if isinstance(error, RootstockError) else f"{type(error).__name__}: "
            raise ReplicaUnbuiltError(name + " ".join(str(error).split())) from error
        return app

    async def call(self, method: str, *args: Any) -> Any:
        """The target of every broadcast.

        Raises:
            ReplicaUnwellError: it is gone already.
        """
        if self._replica is None:
            raise ReplicaUnwellError("closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._calls, self._replica.call, method, *args)

    async def check_health(self) -> None:
        """Asked by Serve; on the loop itself, so that busy threads do not look like sickness.

        Raises:
            ReplicaUnwellError: the replica says so.
        """
        if self._replica is not None and not self._replica.healthy():
            raise ReplicaUnwellError("the batcher hangs")

    async def __del__(self) -> None:
        """Called once by Serve after the last request was answered."""
        if self._replica is not None:
            replica, self._replica = self._replica, None
            await asyncio.get_running_loop().run_in_executor(None, replica.close)
        self._calls.shutdown(wait=False, cancel_futures=True)


class Line(logging.Formatter):
    """One line a record, with its extra fields as key=value."""

    _USUAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        """`INFO 2026-11-20 15:49:51,984 serving.sync catalog applied generation=7`."""
        extra = {k: v for k, v in vars(record).items() if k not in self._USUAL}
        parts = (record.levelname, self.formatTime(record), record.name, record.getMessage())
        line = " ".join((*parts, *(f"{key}={value!s}" for key, value in extra.items())))
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _speak() -> None:
    """Let our own rooms log to standard error; Ray sets up nothing for them."""
    handler = logging.StreamHandler()
    handler.setFormatter(Line())
    for name in ("serving", "adapters_store"):
        room = logging.getLogger(name)
        room.handlers, room.propagate = [handler], False
        room.setLevel(logging.INFO)


def _build(settings: Settings, name: str, fleet: RayFleet) -> "tuple[Replica, FastAPI]":
    """The inside; blocking."""
    # Imported where it runs: torch is half a gigabyte and ten seconds, and whoever only deploys
    # this class needs none of it.
    from serving import api  # noqa: PLC0415
    from serving.replica import Replica  # noqa: PLC0415

    replica = Replica(settings, name)
    replica.telemetry.set(
        "rootstock_build_info",
        1,
        version=next((d.version for d in distributions(name="rootstock")), "unknown"),
        backbone=settings.backbone,
        dtype=settings.dtype,
        device=settings.device,
    )
    return replica, api.build(replica, fleet)


def _stay_on_loopback() -> None:
    """Keep Serve's port between replicas off the network: it unpickles whatever it is sent.

    Serve 2.60 binds it to every interface, with no setting for it.
    """
    bind = serve_replica.add_port_to_grpc_server

    def bind_loopback(server: Any, address: str) -> int:
        return int(bind(server, address.replace("[::]", "127.0.0.1")))

    serve_replica.add_port_to_grpc_server = bind_loopback
