"""The way to other replicas by Ray: broadcasts to all, groups to engines. Decides nothing.

A group goes by the handle's own choice, power of two, to the engine with the fewest requests; a
door counts what it has out over all of them, two for each. Serve 2.60 can also address replicas
(`choose_replica` and `dispatch`), at the price of one more call before each group, and of keeping
count of replicas that come and go: the choice by least requests is the same, and sees what other
doors have out.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import grpc
from ray import exceptions, serve
from ray.serve import context
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from adapters_store.spec import BackboneSpec
from serving.errors import EngineLostError
from serving.hop import Outcome
from serving.types import Card, Sample

log = logging.getLogger(__name__)
T = TypeVar("T")

# What says that a replica or the way to it is gone; whatever else comes back is its answer.
_LOST: Final = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.RpcError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
# The same where calls go by gRPC, which Serve passes on as it is. What is too large for a message
# (RESOURCE_EXHAUSTED) is so for every engine.
_LOST_CODES: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
    }
)


class RayFleet:
    """All replicas of some deployments, reached by broadcast; keeps the promise of `Fleet`."""

    def __init__(
        self, application: str, replicas: Mapping[str, int], *, scaled: bool = False
    ) -> None:
        """How many replicas each deployment should have, by its name.

        Where Serve scales them, that is what it last said, once it has said so.
        """
        self._application, self._replicas, self._scaled = application, dict(replicas), scaled
        self._handles: dict[str, Any] = {}  # made on first use: they want the loop that serves

    def expected(self) -> int:
        """How many replicas should answer a broadcast."""
        return sum(self._replicas.values())

    def request_id(self) -> str:
        """Serve's name for the request that is being handled; empty outside of one."""
        return str(context._get_serve_request_context().request_id)  # noqa: SLF001 (no other way)

    async def broadcast(self, method: str, *args: Any, timeout_s: float = 2.0) -> Sequence[Any]:
        """What each replica that answered in time returned, in no order; never raises for one."""
        told = await asyncio.gather(
            *(self._told(name, timeout_s, method, *args) for name in self._replicas)
        )
        return [answer for answers in told for answer in answers]

    async def _told(
        self, deployment: str, timeout_s: float, method: str, *args: Any
    ) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            if deployment not in self._handles:
                self._handles[deployment] = serve.get_deployment_handle(
                    deployment, self._application
                )
            # Not `results_async`: one late replica would make it drop the others' answers.
            sent = self._handles[deployment].broadcast("call", method, *args)
            replies = await asyncio.wait_for(sent._fetch_replica_results_async(), timeout_s)  # noqa: SLF001
        except Exception:
            log.warning("broadcast not sent", extra={"method": method}, exc_info=True)
            return []
        if self._scaled:
            self._replicas[deployment] = len(replies)
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


class RayWire:
    """From a door to engines; keeps the promise of `Wire`."""

    def __init__(self, handle: "DeploymentHandle[Any]", engines: RayFleet) -> None:
        self._handle, self._engines = handle, engines
        self._methods: dict[str, DeploymentHandle[Any]] = {}

    async def compute(self, group: Sequence[Sample], *, patient: bool) -> Sequence[Outcome]:
        """See `Wire`, as for everything here."""
        answers: Sequence[Outcome] = await self._asked("compute", list(group), patient=patient)
        return answers

    async def card(self, digest: str) -> Card:
        """From one engine."""
        return _raised(Card, await self._asked("card", digest))

    async def install(self, digest: str, data: bytes, task: str) -> Card:
        """From one engine."""
        return _raised(Card, await self._asked("install", digest, data, task))

    async def spec(self) -> BackboneSpec:
        """Of the backbone that every engine has; waits until there is one."""
        return _raised(BackboneSpec, await self._asked("spec"))

    async def batch_max(self) -> int:
        """Forwards in one batch of an engine; more in a group would only wait there."""
        return _raised(int, await self._asked("batch_max"))

    async def status(self, timeout_s: float) -> Sequence[Mapping[str, Any]]:
        """Of all that answer in time."""
        return await self._engines.broadcast("status", timeout_s=timeout_s)

    async def _asked(self, method: str, *args: Any, **how: Any) -> Any:
        """One call of the engine with the fewest.

        Raises:
            EngineLostError
        """
        if method not in self._methods:
            # Arrays and plain values only: the standard pickle is faster than cloudpickle.
            self._methods[method] = self._handle.options(
                method_name=method,
                request_serialization="pickle",
                response_serialization="pickle",
            )
        try:
            return await self._methods[method].remote(*args, **how)
        except _LOST as error:
            raise EngineLostError(f"{type(error).__name__} on the way to an engine") from error
        except grpc.aio.AioRpcError as error:
            if error.code() not in _LOST_CODES:
                raise
            raise EngineLostError(f"{error.code().name} on the way to an engine") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody here gave the call up: it was ended over there.
            raise EngineLostError("an engine ended the call") from None


def _raised(kind: type[T], answer: object) -> T:
    """An engine's answer; errors travel as values, as Ray would make other classes of them."""
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, kind), answer
    return answer
