"""A task's life over HTTP: publish, activate, alias, split, retire, list. Knows no tensor."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, TypedDict

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.convertors import Convertor, register_url_convertor

from adapters_store.admission import admit
from adapters_store.catalog import TaskState
from adapters_store.errors import AdapterError, StoreError, TaskNotFoundError
from adapters_store.events import ALIAS_NAME
from adapters_store.manifest import TASK_NAME
from adapters_store.proposals import check_task_name
from adapters_store.store import Published
from serving import access, bodies
from serving.auth import Gate
from serving.door import Door
from serving.errors import MediaUnsupportedError, RequestInvalidError, ServingError
from serving.problems import http_problem
from serving.types import Fleet

_PAGE: Final = 100
_PAGE_MAX: Final = 1000
_WAIT_S: Final = 10.0  # for `?wait=true`
_COMMAND_BYTES: Final = 64 * 1024
_ETAG: Final = re.compile(r'(?:W/)?"([0-9]{1,18})"|([0-9]{1,18})')
# It is shown on terminals, where an escape sequence would do as it says.
WHY: Final = r"^[^\x00-\x1f\x7f-\x9f]{0,1000}$"


class _Name(Convertor[str]):
    """A task in a path: no colon, so that what stands behind one is never part of a name."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("task", _Name())


def _whole(value: Any) -> Any:
    """What JSON calls an integer: 3 and 3.0, but neither "3" nor true."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool | str):
        raise ValueError("it is not a number")  # noqa: TRY004 (pydantic collects ValueErrors alone)
    return value


_Whole = Annotated[int, BeforeValidator(_whole)]
_Number = Annotated[int, Field(ge=1), BeforeValidator(_whole)]  # of a release


_Named = Annotated[str, Path(json_schema_extra={"pattern": f"^{_Name.regex}$"})]
_Task = Annotated[str, Path(json_schema_extra={"pattern": f"^{TASK_NAME.pattern}$"})]


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid")

    why: str = Field(default="", pattern=WHY)


class Activate(_Command):
    """`:activate`, also how one rolls back."""

    release: _Number


class Alias(_Command):
    """`:alias`; null takes the alias away."""

    alias: str = Field(json_schema_extra={"pattern": f"^{ALIAS_NAME.pattern}$"})
    release: _Number | None


class Split(_Command):
    """`:split`; release number → weight."""

    weights: dict[int, _Whole] = Field(
        json_schema_extra={
            "minProperties": 1,
            "propertyNames": {"pattern": "^[1-9][0-9]{0,17}$"},
            "additionalProperties": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
        }
    )


class _How(TypedDict):
    by: str
    why: str
    if_match: int | None


_COMMANDS: Final[Mapping[str, type[_Command]]] = {
    "activate": Activate,
    "alias": Alias,
    "split": Split,
}


def routes(replica: Door, fleet: Fleet, gate: Gate) -> APIRouter:
    """The routes under /v1/tasks, predictions left out."""
    life = Lifecycle(replica, fleet, gate)
    router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
    router.get("", summary="List tasks")(life.list)
    router.get("/{task:task}", summary="One task")(life.show)
    router.get("/{task:task}/history", summary="Every change of a task")(life.history)
    router.put(
        "/{task:task}",
        summary="Publish an artifact as a release",
        status_code=201,
        openapi_extra=_takes("application/octet-stream", {"type": "string", "format": "binary"}),
    )(life.publish)
    router.delete("/{task:task}", summary="Retire a task")(life.retire)
    for action, model in _COMMANDS.items():
        router.post(
            f"/{{task:task}}:{action}",
            summary=f"{action.capitalize()} a release",
            openapi_extra=_takes("application/json", model.model_json_schema()),
        )(life.commanded(action, model))
    router.post("/{task:task}:{action}", include_in_schema=False)(life.unknown)
    return router


def _takes(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


class Lifecycle:
    """The handlers of a task's life."""

    def __init__(self, replica: Door, fleet: Fleet, gate: Gate) -> None:
        self._replica, self._fleet, self._gate = replica, fleet, gate

    async def list(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=_PAGE_MAX)] = _PAGE,
        page: str = "",
    ) -> Response:
        """Tasks by name; `next` is the `page` to ask for, or null at the end."""
        self._gate.check("predict", request.headers.get("authorization"))
        tasks = self._replica.follower.view.catalog.tasks
        names = sorted(n for n, s in tasks.items() if not s.retired and n > page)
        items = [_summary(tasks[n]) for n in names[:limit]]
        return self._json(
            {"items": items, "next": names[limit - 1] if len(names) > limit else None}
        )

    async def show(self, request: Request, task: _Named) -> Response:
        """Labels, releases, aliases, and what every replica answers with."""
        self._gate.check("predict", request.headers.get("authorization"))
        state = self._replica.follower.view.catalog.task(task)
        detail = _summary(state)
        if state.active is not None:
            detail |= await self._about(f"{task}@{state.active}")
        detail["releases"] = [
            {
                "release": r.number,
                "digest": r.digest,
                "bytes": r.bytes,
                "at": r.at,
                "by": r.by,
                "why": r.why,
                "retired": r.retired,
            }
            for r in state.releases
        ]
        detail["replicas"] = list(await self._fleet.broadcast("task", task))
        return self._json(detail, etag=state.generation)

    async def _about(self, ref: str) -> dict[str, Any]:
        """What the artifact says of itself; nothing where it cannot be had just now."""
        try:
            _, facts = await self._replica.locate(ref, None)
        except (ServingError, StoreError):
            return {"labels": None, "method": None, "metrics": None}
        return {
            "labels": list(facts.labels),
            "method": facts.method,
            "metrics": facts.metrics,
        }

    async def history(self, request: Request, task: _Named) -> Response:
        """Every event of the task, oldest first."""
        self._gate.check("predict", request.headers.get("authorization"))
        if task not in self._replica.follower.view.catalog.tasks:
            raise TaskNotFoundError(task)
        # Not where changes are written: readers must not hold up writers.
        events = await asyncio.to_thread(self._replica.store.history, task)
        return self._json({"items": [e.model_dump(mode="json") for e in events]})

    async def publish(
        self, request: Request, task: _Task, *, activate: bool = True, wait: bool = False
    ) -> Response:
        """201 with the new release; 200 when those bytes are a release of the task already."""
        author = self._admitted(request)
        check_task_name(task)
        if_match, why = _if_match(request), _why(request)
        data = await bodies.read(request, self._replica.settings.artifact_bytes)
        published = await self._replica.write(
            lambda: self._published(
                data, task, by=author, why=why, activate=activate, if_match=if_match
            )
        )
        answer = await self._told(published.generation, _WAIT_S if wait else 2.0)
        answer |= {
            "task": task,
            "release": published.release.number,
            "digest": published.release.digest,
        }
        return self._json(answer, 201 if published.created else 200, published.generation)

    def _published(self, data: bytes, task: str, **how: Any) -> Published:
        try:
            return self._replica.publish(data, task, **how)
        except AdapterError:
            # Loading knows bytes and no task. Refused ones are held to it too: that they name
            # another task has its place among the faults.
            admit(data, self._replica.spec, task=task)
            raise

    async def retire(self, request: Request, task: _Named) -> Response:
        """Take the whole task away; publishing to it brings it back."""
        author = self._admitted(request)
        if_match, why = _if_match(request), _why(request)
        return await self._changed(
            lambda: self._replica.store.retire(task, by=author, why=why, if_match=if_match)
        )

    async def unknown(self, task: str, action: str) -> Response:
        """No such change."""
        return http_problem(404, f"no action {action[:40]!r}; there are {', '.join(_COMMANDS)}")

    def commanded(
        self, action: str, model: type[_Command]
    ) -> Callable[[Request, str], Awaitable[Response]]:
        """The handler of one action."""

        async def command(request: Request, task: _Named) -> Response:
            return await self._command(request, task, model)

        command.__name__, command.__doc__ = action, model.__doc__
        return command

    async def _command(self, request: Request, task: str, model: type[_Command]) -> Response:
        author = self._admitted(request)
        if_match = _if_match(request)
        kind = request.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            # A web page may post plain text to a loopback server without being asked first.
            raise MediaUnsupportedError(kind, ("application/json",))
        try:
            order = model.model_validate_json(await bodies.read(request, _COMMAND_BYTES))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))[:80] or "body"
            raise RequestInvalidError(f"{where}: {first['msg']}") from None

        def change() -> int:
            store = self._replica.store
            how = _How(by=author, why=order.why, if_match=if_match)
            match order:
                case Activate(release=release):
                    return store.activate(task, release, **how)
                case Alias(alias=alias, release=to):
                    return store.alias(task, alias, to, **how)
                case Split(weights=weights):
                    return store.split(task, weights, **how)
                case _:
                    raise AssertionError(order)

        return await self._changed(change)

    def _admitted(self, request: Request) -> str:
        """Who makes a change."""
        headers = request.headers
        author = self._gate.check("admin", headers.get("authorization"), headers.get("host", ""))
        access.note(by=author)
        return author

    async def _changed(self, change: Callable[[], int]) -> Response:
        generation = await self._replica.write(change)
        await self._told(generation, 2.0)
        return self._json({"generation": generation}, etag=generation)

    async def _told(self, generation: int, wait_s: float) -> dict[str, Any]:
        """Nudge every replica and say which have the generation already."""
        expected = self._fleet.expected()
        told = await self._fleet.broadcast("catch_up", generation, wait_s * 0.9, timeout_s=wait_s)
        ready = [t["replica"] for t in told if t["generation"] >= generation]
        waiting = [t["replica"] for t in told if t["generation"] < generation]
        waiting += ["unknown"] * max(0, expected - len(told))
        return {
            "generation": generation,
            "ready": len(ready) >= expected,
            "replicas": expected,
            "waiting_for": waiting,
        }

    def _json(self, value: Any, status: int = 200, etag: int | None = None) -> Response:
        headers = {"X-Generation": str(self._replica.generation)}
        if etag is not None:
            headers["ETag"] = f'"{etag}"'
        return JSONResponse(value, status_code=status, headers=headers)


def _summary(state: TaskState) -> dict[str, Any]:
    active = None if state.active is None else state.find(state.active)
    return {
        "task": state.name,
        "active": state.active,
        "digest": None if active is None else active.digest,
        "aliases": dict(state.aliases),
        "split": {str(k): v for k, v in state.split.items()},
        "generation": state.generation,
    }


def _why(request: Request) -> str:
    """What X-Why says.

    Raises:
        RequestInvalidError: too long, or with control characters.
    """
    text = request.headers.get("x-why", "")
    if not re.fullmatch(WHY, text):
        raise RequestInvalidError("X-Why has at most 1000 characters, and no control characters")
    return text


def _if_match(request: Request) -> int | None:
    """The generation of an If-Match header.

    Raises:
        RequestInvalidError: it is no ETag of ours.
    """
    text = request.headers.get("if-match")
    if text is None:
        return None
    found = _ETAG.fullmatch(text.strip())
    if found is None:
        raise RequestInvalidError('If-Match must be an ETag of the task, such as "17"')
    return int(found.group(1) or found.group(2))
