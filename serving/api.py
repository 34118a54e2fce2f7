"""The HTTP door: predictions, health, metrics. Knows HTTP and the replica, no tensor and no Ray."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from adapters_store.errors import RootstockError
from serving import bodies, lifecycle
from serving.auth import Gate
from serving.errors import DeadlineError, OverloadedError, RequestInvalidError
from serving.problems import http_problem, problem, refusal, status_of
from serving.replica import Classified, Replica
from serving.telemetry import merge
from serving.types import Fleet

log = logging.getLogger(__name__)

TOP_K: Final = 5
_UNKNOWN: Final = "__unknown__"
_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "byte"}},
                }
            },
        },
    }
}


def build(replica: Replica, fleet: Fleet) -> FastAPI:
    """The application of one replica."""
    app = FastAPI(
        title="Rootstock",
        summary="Image classification for thousands of tasks from one frozen backbone.",
        version="1",
        redoc_url=None,
    )
    gate = Gate(replica.settings.tokens, replica.settings.host)
    door = Door(replica, fleet, gate)
    app.add_exception_handler(RootstockError, _refuse)
    app.add_exception_handler(ClientDisconnect, _refuse_gone)
    app.add_exception_handler(Exception, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_invalid)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(404, _refuse_http)
    app.post(
        "/v1/tasks/{task}:predict",
        tags=["predict"],
        summary="Classify one or more images",
        openapi_extra=_BODY,
        response_class=JSONResponse,
    )(door.predict)
    app.get("/healthz", tags=["health"], summary="Liveness of this replica")(door.healthz)
    app.get("/readyz", tags=["health"], summary="Readiness of this replica")(door.readyz)
    app.get(
        "/metrics",
        tags=["health"],
        summary="Prometheus text of all replicas",
        response_class=PlainTextResponse,
    )(door.metrics)
    app.include_router(lifecycle.routes(replica, fleet, gate))
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    if status_of(error)[0] == 500:
        log.error("request failed", exc_info=error, extra={"path": request.url.path})
    return refusal(error)


async def _refuse_gone(_: Request, __: Exception) -> Response:
    """Nobody reads this: the client left while its body was being read."""
    return http_problem(400, "the body ended early")


async def _refuse_http(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    detail = "no such path" if status == 404 else str(getattr(error, "detail", "refused"))
    return http_problem(status, detail)


async def _refuse_invalid(_: Request, error: Exception) -> Response:
    """A path or query parameter that is not what the framework was told to expect."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"][1:]))
    return http_problem(422, f"{where}: {first['msg']}")


class Door:
    """The handlers that are not about a task's life."""

    def __init__(self, replica: Replica, fleet: Fleet, gate: Gate) -> None:
        self._replica, self._fleet, self._gate = replica, fleet, gate
        self._telemetry = replica.telemetry
        self._inside = 0  # predict calls; only the event loop touches it

    async def predict(self, request: Request, task: str, top_k: int = TOP_K) -> Response:
        """Answer with the most probable labels of the image for the task."""
        began = time.perf_counter()
        outcome = "ok"
        self._enter(1)
        try:
            return await self._predict(request, task, top_k)
        except Exception as error:
            status, outcome = status_of(error)
            if status in (429, 503, 504):
                self._telemetry.count("rootstock_refusals", reason=outcome)
            raise
        finally:
            self._enter(-1)
            name = task.partition("@")[0]
            known = name in self._replica.follower.view.catalog.tasks  # nobody may invent labels
            self._telemetry.count(
                "rootstock_requests", task=name if known else _UNKNOWN, outcome=outcome
            )
            self._telemetry.observe(
                "rootstock_request_seconds", time.perf_counter() - began, outcome=outcome
            )

    def _enter(self, change: int) -> None:
        self._inside += change
        self._telemetry.set("rootstock_in_flight", self._inside)

    async def _predict(self, request: Request, task: str, top_k: int) -> Response:
        settings = self._replica.settings
        self._gate.check("predict", request.headers.get("authorization"))
        if not 1 <= top_k <= 1000:
            raise RequestInvalidError("top_k must be between 1 and 1000")
        budget_s = _number(request, "x-request-deadline-ms", settings.budget_s * 1000) / 1000
        until = time.monotonic() + budget_s
        try:
            async with asyncio.timeout(budget_s):
                return await self._answered(request, task, top_k, until)
        except TimeoutError:
            raise DeadlineError(budget_s) from None

    async def _answered(self, request: Request, task: str, top_k: int, until: float) -> Response:
        replica, settings = self._replica, self._replica.settings
        left_s = until - time.monotonic()
        await replica.ensure(int(_number(request, "x-min-generation", 0)), min(left_s / 2, 2.0))
        request_id = self._fleet.request_id() or request.headers.get("x-request-id", "")
        key = request.headers.get("x-route-key") or request_id or None
        await replica.locate(task, key)  # an unknown task is answered before the body
        if self._inside > settings.inside_max or replica.batcher.waiting >= settings.queue_max:
            raise OverloadedError("too many requests are inside already", 1)
        pictures, many = await bodies.images(request, settings.body_bytes, settings.files_max)
        classify: Callable[[bytes], Awaitable[Classified]] = lambda image: replica.classify(  # noqa: E731
            task, image, key=key, budget_s=until - time.monotonic()
        )
        if not many:
            done = await classify(pictures[0])
            return self._answer(done, self._prediction(done, top_k, request_id))
        outcomes = await asyncio.gather(*map(classify, pictures), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and status_of(outcome)[0] == 500:
                log.error("one image of a form failed", exc_info=outcome)
        results = [
            problem(o) if isinstance(o, BaseException) else self._prediction(o, top_k, request_id)
            for o in outcomes
        ]
        first = next((o for o in outcomes if isinstance(o, Classified)), None)
        return self._answer(first, {"results": results})

    def _prediction(self, done: Classified, top_k: int, request_id: str) -> dict[str, Any]:
        began = time.perf_counter()
        logits = done.answer.logits.astype(np.float64)
        odds = np.exp(logits - logits.max())
        odds /= odds.sum()
        best = np.argsort(-odds, kind="stable")[:top_k]
        prediction = {
            "task": done.route.task,
            "release": done.route.release,
            "digest": done.route.digest,
            "path": done.answer.path.value,
            "predictions": [
                {"label": done.labels[i], "index": int(i), "probability": float(odds[i])}
                for i in best
            ],
            "request_id": request_id,
        }
        stages = {
            "decode": done.decode_s,
            "queue": done.answer.queue_s,
            "compute": done.answer.compute_s,
            "encode": time.perf_counter() - began,
        }
        for stage, seconds in stages.items():
            self._telemetry.observe("rootstock_stage_seconds", seconds, stage=stage)
        return prediction

    def _answer(self, done: Classified | None, value: dict[str, Any]) -> Response:
        generation = self._replica.generation if done is None else done.route.generation
        headers = {"X-Generation": str(generation)}
        if done is not None:
            stages = (
                ("decode", done.decode_s),
                ("queue", done.answer.queue_s),
                ("compute", done.answer.compute_s),
            )
            headers["X-Adapter-Digest"] = done.route.digest
            headers["Server-Timing"] = ", ".join(f"{n};dur={s * 1000:.2f}" for n, s in stages)
        return Response(
            json.dumps(value, ensure_ascii=False),
            headers=headers,
            media_type="application/json",
        )

    async def healthz(self) -> Response:
        """200 while the process works; a replica that answers 503 here is replaced."""
        healthy = self._replica.healthy()
        return JSONResponse({"healthy": healthy}, status_code=200 if healthy else 503)

    async def readyz(self) -> Response:
        """200 once the backbone is verified and the catalog was read."""
        ready, status = self._replica.ready()
        return JSONResponse({"ready": ready, **status}, status_code=200 if ready else 503)

    async def metrics(self) -> Response:
        """One scrape holds every replica, by label `replica`."""
        answers = await self._fleet.broadcast("metrics")
        text = merge(dict(answers), self._fleet.expected())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _number(request: Request, header: str, default: float) -> float:
    """A header that holds a positive number.

    Raises:
        RequestInvalidError: it holds something else.
    """
    text = request.headers.get(header)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2**53:
        raise RequestInvalidError(f"{header} is not a positive number")
    return value
