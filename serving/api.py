"""The HTTP door: predictions, health, metrics. Knows HTTP and the replica, no tensor and no Ray."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from adapters_store.errors import RootstockError
from serving import access, bodies, docs_page, inference, inference_repository, lifecycle, openapi
from serving.access import AccessLog
from serving.auth import Gate
from serving.door import Door
from serving.errors import RequestInvalidError
from serving.lately import Lately
from serving.passage import Passage, Visit, best, odds
from serving.problems import http_problem, problem, refusal, status_of, worded
from serving.telemetry import merge
from serving.types import Classified, Fleet

log = logging.getLogger(__name__)

TOP_K: Final = 5
# Spans are Serve's; the framework's own would hold whole queries.
_NO_TELEMETRY: Final[TelemetryConfig] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
_VERBS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
TopK = Annotated[int, Query(ge=1, le=1000)]


def _takes(most: int) -> dict[str, Any]:
    """One image, or a form of so many."""
    file = {"type": "string", "format": "binary"}
    files = {"type": "array", "minItems": 1, "maxItems": most, "items": file}
    form = {"type": "object", "required": ["file"], "properties": {"file": files}}
    coded = {
        "type": "object",
        "required": ["image"],
        "properties": {"image": {"type": "string", "format": "byte"}},
        "additionalProperties": False,
    }
    kinds = {"image/*": file, "multipart/form-data": form, "application/json": coded}
    content = {kind: {"schema": schema} for kind, schema in kinds.items()}
    return {"requestBody": {"required": True, "content": content}}


def build(replica: Door, fleet: Fleet) -> FastAPI:
    """The application of one replica."""
    app = FastAPI(
        title="Rootstock",
        summary="Image classification for thousands of tasks from one frozen backbone.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
    )
    app.add_middleware(AccessLog, fleet=fleet, lines_per_s=replica.settings.access_lines)
    gate = Gate(replica.settings.tokens, replica.settings.host)
    passage = Passage(replica, fleet, gate)
    edge = Edge(replica, fleet, passage)
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
        openapi_extra=_takes(replica.settings.files_max),
        response_class=JSONResponse,
    )(edge.predict)
    app.post(
        "/v1/predict",
        tags=["predict"],
        summary="Classify one image for several tasks",
        openapi_extra=_takes(1),
        response_class=JSONResponse,
    )(edge.predict_all)
    app.get("/healthz", tags=["health"], summary="Liveness of this replica")(edge.healthz)
    app.get("/readyz", tags=["health"], summary="Readiness of this replica")(edge.readyz)
    app.get(
        "/metrics",
        tags=["health"],
        summary="Prometheus text of all replicas",
        response_class=PlainTextResponse,
    )(edge.metrics)
    app.include_router(lifecycle.routes(replica, fleet, gate))
    app.include_router(inference.routes(replica, gate, passage))
    app.include_router(inference_repository.routes(replica, fleet, gate))
    docs_page.add(app)
    derived = app.openapi
    tokens = bool(replica.settings.tokens)
    app.openapi = cache(lambda: openapi.completed(derived(), tokens=tokens))  # type: ignore[method-assign]
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    status, code = status_of(error)
    access.note(code=code)
    if status == 500:
        log.error("request failed", exc_info=error)
    return worded(request.url.path, refusal(error))


async def _refuse_gone(request: Request, _: Exception) -> Response:
    """Nobody reads this: the client left while its body was being read."""
    return worded(request.url.path, http_problem(499, "the client left"))


async def _refuse_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    detail = "no such path" if status == 404 else str(getattr(error, "detail", "refused"))
    headers = {"Allow": _allowed(request)} if status == 405 else {}
    return worded(request.url.path, http_problem(status, detail, headers))


def _allowed(request: Request) -> str:
    """Every verb of a path: the framework names those of the first route that it finds."""
    routes = request.app.router.routes
    asked = {verb: {**request.scope, "method": verb} for verb in _VERBS}
    return ", ".join(
        verb
        for verb, scope in asked.items()
        if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )


async def _refuse_invalid(request: Request, error: Exception) -> Response:
    """A path or query parameter that is not what the framework was told to expect."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"][1:]))
    return worded(request.url.path, http_problem(422, f"{where}: {first['msg']}"))


class Edge:
    """The handlers that are not about a task's life."""

    def __init__(self, replica: Door, fleet: Fleet, passage: Passage) -> None:
        self._replica, self._fleet, self._passage = replica, fleet, passage
        self._scrape = Lately(self._scraped, 0.0)  # one at a time, for all who ask meanwhile

    async def predict(self, request: Request, task: str, top_k: TopK = TOP_K) -> Response:
        """Answer with the most probable labels of the image for the task."""
        async with self._passage.enter(request, task) as call:
            return await self._predicted(request, task, top_k, call)

    async def predict_all(
        self, request: Request, task: Annotated[list[str], Query()], top_k: TopK = TOP_K
    ) -> Response:
        """Answer for every task in order, each with its prediction or its problem.

        The image is decoded once, and tasks whose adapter is a head alone share one forward.
        """
        settings = self._replica.settings
        async with self._passage.enter_for_all(request, task) as (visit, any_known):
            image = b""
            if any_known:  # else there is nothing to look at
                images, _ = await bodies.images(request, settings.body_bytes, settings.files_max)
                if len(images) != 1:
                    raise RequestInvalidError("one image for several tasks, not several")
                image = images[0]
            outcomes = await self._replica.classify_all(
                task, image, key=visit.key, budget_s=visit.left_s
            )
            answer = self._answer_all(outcomes, top_k, visit.request_id)
            del answer.headers["X-Adapter-Digest"]  # every prediction says its own
            return answer

    def _answer_all(
        self, outcomes: Sequence[Classified | BaseException], top_k: int, request_id: str
    ) -> Response:
        """Predictions and problems in order; of headers those that speak of all."""
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and status_of(outcome)[0] == 500:
                log.error("one answer of several failed", exc_info=outcome)
        results = [
            problem(o) if isinstance(o, BaseException) else self._prediction(o, top_k, request_id)
            for o in outcomes
        ]
        first = next((o for o in outcomes if isinstance(o, Classified)), None)
        return self._answer(first, {"results": results})

    async def _predicted(self, request: Request, task: str, top_k: int, call: Visit) -> Response:
        replica, settings = self._replica, self._replica.settings
        pictures, many = await bodies.images(request, settings.body_bytes, settings.files_max)
        classify: Callable[[bytes], Awaitable[Classified]] = lambda image: replica.classify(  # noqa: E731
            task, image, key=call.key, budget_s=call.left_s
        )
        if not many:
            done = await classify(pictures[0])
            return self._answer(done, self._prediction(done, top_k, call.request_id))
        outcomes = await asyncio.gather(*map(classify, pictures), return_exceptions=True)
        return self._answer_all(outcomes, top_k, call.request_id)

    def _prediction(self, done: Classified, top_k: int, request_id: str) -> dict[str, Any]:
        began = time.perf_counter()
        probabilities = odds(done.answer.logits)
        prediction = {
            "task": done.route.task,
            "release": done.route.release,
            "digest": done.route.digest,
            "path": done.answer.path.value,
            "predictions": [
                {"label": done.labels[i], "index": i, "probability": float(probabilities[i])}
                for i in best(probabilities, top_k)
            ],
            "request_id": request_id,
        }
        self._passage.note(done, time.perf_counter() - began)
        return prediction

    def _answer(self, done: Classified | None, value: dict[str, Any]) -> Response:
        return Response(
            json.dumps(value, ensure_ascii=False),
            headers=self._passage.headers(done),
            media_type="application/json",
        )

    async def healthz(self) -> Response:
        """200 while the process works; a replica that answers 503 here is replaced."""
        healthy = self._replica.healthy()
        return JSONResponse({"healthy": healthy}, status_code=200 if healthy else 503)

    async def readyz(self) -> Response:
        """200 once the backbone is verified, the catalog was read, and an engine is ready."""
        ready, status = await self._replica.readiness()
        return JSONResponse({"ready": ready, **status}, status_code=200 if ready else 503)

    async def metrics(self) -> Response:
        """One scrape holds every replica, by label `replica`."""
        text = await self._scrape()
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _scraped(self) -> str:
        answers = await self._fleet.broadcast("metrics")
        return await asyncio.to_thread(merge, dict(answers), self._fleet.expected())
