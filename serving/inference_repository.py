"""The repository calls of the Open Inference Protocol: index, load, unload. Knows HTTP and fleet.

Here a task is answered as long as it is in the catalog, in memory or not. So `load` and `unload`
say what is in memory, on every replica, until the next request or change says otherwise; they
change no task. Taking one away is `DELETE /v1/tasks/{task}`.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, ValidationError

from adapters_store.catalog import TaskState
from serving import bodies
from serving.auth import Gate
from serving.door import Door
from serving.errors import DeadlineError, ForbiddenError, ReleaseFailedError, RequestInvalidError
from serving.router import route
from serving.sync import View
from serving.types import Fleet

M = TypeVar("M", bound=BaseModel)

_ORDER_BYTES: Final = 64 * 1024
_TOLD_S: Final = 1.0  # for the way to a replica and back, beside what it does
_UNLOAD_S: Final = 5.0


class _Index(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    ready: bool = False


class _Order(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    parameters: dict[str, Any] | None = None


def routes(replica: Door, fleet: Fleet, gate: Gate) -> APIRouter:
    """The routes under /v2/repository."""
    repository = Repository(replica, fleet, gate)
    router = APIRouter(prefix="/v2/repository", tags=["inference protocol"])
    index, order = _Index.model_json_schema(), _Order.model_json_schema()
    empty = {"properties": {"parameters": {"type": ["object", "null"], "maxProperties": 0}}}
    for path, handler, schema, summary in (
        ("/index", repository.index, index, "Every task, and whether it is answered"),
        ("/models/{task}/load", repository.load, order | empty, "Bring a task into memory"),
        ("/models/{task}/unload", repository.unload, order, "Let a task go from memory"),
    ):
        body = {"content": {"application/json": {"schema": schema}}}
        router.post(path, summary=summary, openapi_extra={"requestBody": body})(handler)
    return router


class Repository:
    """The handlers of the three calls."""

    def __init__(self, replica: Door, fleet: Fleet, gate: Gate) -> None:
        self._replica, self._fleet, self._gate = replica, fleet, gate

    async def index(self, request: Request) -> Response:
        """Every task with the release that answers; `ready` leaves out those that do not."""
        self._gate.check("predict", request.headers.get("authorization"))
        order = await _order(request, _Index)
        view, refused = self._replica.follower.view, self._replica.refused
        listed = await asyncio.to_thread(
            lambda: [e for e in entries(view, refused) if e["state"] == "READY" or not order.ready]
        )
        return JSONResponse(listed)

    async def load(self, request: Request, task: str) -> Response:
        """200 when every replica has the active release in memory, verified."""
        self._admit(request)
        order = await _order(request, _Order)
        if order.parameters:  # a model's configuration or files, which only an artifact holds
            raise RequestInvalidError("load takes no parameters; publish an artifact instead")
        return await self._told("load", task, self._replica.settings.load_s)

    async def unload(self, request: Request, task: str) -> Response:
        """200 when every replica has let the task go; asking for it brings it back."""
        self._admit(request)
        await _order(request, _Order)  # `unload_dependents`: there are none
        return await self._told("unload", task, _UNLOAD_S)

    def _admit(self, request: Request) -> None:
        host = request.headers.get("host", "")
        self._gate.check("admin", request.headers.get("authorization"), host)
        origin = request.headers.get("origin")  # clients of the protocol send no content type
        if origin is not None and _host(origin) != host:
            raise ForbiddenError("a page of another site may not do this")

    async def _told(self, what: str, task: str, timeout_s: float) -> Response:
        told = await self._fleet.broadcast(what, task, timeout_s=timeout_s + _TOLD_S)
        for error in told:
            if error is not None:
                raise error
        if len(told) < self._fleet.expected():
            raise DeadlineError(timeout_s)
        return JSONResponse({"name": task, "replicas": len(told)})


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def entries(view: View, refused: Callable[[str], bool]) -> Iterator[dict[str, str]]:
    """The index by name: one entry a task, as this replica would answer for it."""
    for name, state in sorted(view.catalog.tasks.items()):
        if not state.retired:
            version, reason, answers = _standing(state, view, refused)
            shown = "READY" if answers else "UNAVAILABLE"
            yield {"name": name, "version": version, "state": shown, "reason": reason}


def _standing(
    state: TaskState, view: View, refused: Callable[[str], bool]
) -> tuple[str, str, bool]:
    """(release, reason, whether it answers)."""
    if state.active is None:
        return "", "none of its releases is active", False
    try:
        way = route(view.catalog, state.name, None, view.verified, refused)
    except ReleaseFailedError as error:
        return str(error.release), str(error), False
    wanted = ReleaseFailedError(state.name, state.active)
    return str(way.release), "" if way.release == state.active else str(wanted), True


async def _order(request: Request, model: type[M]) -> M:
    body = await bodies.read(request, _ORDER_BYTES)
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:80] or "body"
        raise RequestInvalidError(f"{where}: {first['msg'][:200]}") from None
