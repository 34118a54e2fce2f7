"""The Open Inference Protocol, version 2: a task is a model under /v2, a release its version.

Knows HTTP and the replica; no byte of the wire format, no tensor, and no repository call.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import distributions
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from adapters_store.errors import ImageInvalidError
from serving import bodies, inference_wire
from serving.auth import Gate
from serving.door import Door
from serving.inference_wire import INPUT, LABEL, OUTPUTS, PROBABILITIES, Asked, Computed
from serving.passage import Passage, Visit, odds
from serving.router import route
from serving.types import Classified

_EXTENSIONS: Final = ("binary_tensor_data", "classification", "model_repository")
_BRIEF_BYTES: Final = 64 * 1024  # read on the event loop; what is longer, on a thread
_BRIEF_ODDS: Final = 20_000  # images times labels, written likewise
_JSON_LENGTH: Final = "Inference-Header-Content-Length"
_PARAMETERS: Final = {"type": "object", "additionalProperties": True}
_REQUEST: Final = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "maxLength": 1024},
        "parameters": _PARAMETERS,
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype", "data"],
                "properties": {
                    "name": {"const": INPUT},
                    "shape": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 2,
                        "items": {"type": "integer", "minimum": 1},
                    },
                    "datatype": {"const": "BYTES"},
                    "parameters": _PARAMETERS,
                    "data": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "byte"},
                    },
                },
            },
        },
        "outputs": {
            "type": "array",
            "maxItems": len(OUTPUTS),
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"enum": [PROBABILITIES, LABEL]},
                    "parameters": _PARAMETERS,
                },
            },
        },
    },
}
_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _REQUEST},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def routes(replica: Door, gate: Gate, passage: Passage) -> APIRouter:
    """The routes under /v2, those of the repository left out."""
    protocol = Inference(replica, gate, passage)
    router = APIRouter(prefix="/v2", tags=["inference protocol"])
    router.get("", summary="What this server is")(protocol.server)
    router.get("/health/live", summary="Whether this replica works")(protocol.live)
    router.get("/health/ready", summary="Whether requests should come here")(protocol.ready)
    _both(router, "GET", "", protocol.model, summary="Inputs and outputs of a task")
    _both(router, "GET", "/ready", protocol.model_ready, summary="Whether a task is answered")
    _both(router, "POST", "/infer", protocol.infer, summary="Classify images", openapi_extra=_BODY)
    return router


def _both(
    router: APIRouter,
    method: str,
    path: str,
    handler: Callable[[Request, str], Awaitable[Response]],
    **how: Any,
) -> None:
    """One handler of `task`, `task@3` or `task@alias` for the path of a model and of a version."""

    async def of_task(request: Request, task: str) -> Response:
        return await handler(request, task)

    async def of_release(request: Request, task: str, release: str) -> Response:
        return await handler(request, f"{task}@{release}")

    names = {"methods": [method], "response_class": JSONResponse, **how}
    router.add_api_route("/models/{task}" + path, of_task, **names)
    router.add_api_route("/models/{task}/versions/{release}" + path, of_release, **names)


class Inference:
    """The handlers that speak of models."""

    def __init__(self, replica: Door, gate: Gate, passage: Passage) -> None:
        self._replica, self._gate, self._passage = replica, gate, passage
        version = next((d.version for d in distributions(name="rootstock")), "unknown")
        self._server = {"name": "rootstock", "version": version, "extensions": list(_EXTENSIONS)}

    async def server(self, request: Request) -> Response:
        """Name, version and extensions of the protocol."""
        self._gate.check("predict", request.headers.get("authorization"))
        return JSONResponse(self._server)

    async def live(self) -> Response:
        """200 while the process works."""
        live = self._replica.healthy()
        return JSONResponse({"live": live}, status_code=200 if live else 503)

    async def ready(self) -> Response:
        """200 once the backbone is verified and the catalog was read."""
        ready, _ = await self._replica.readiness()
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def model(self, request: Request, ref: str) -> Response:
        """The tensors of a task, and the releases that may be asked for."""
        self._gate.check("predict", request.headers.get("authorization"))
        way, facts = await self._replica.locate(ref, None)
        state = self._replica.follower.view.catalog.task(way.task)
        return JSONResponse(
            {
                "name": way.task,
                "versions": [str(r.number) for r in state.releases if not r.retired],
                "platform": "rootstock",
                "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
                "outputs": [
                    {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, len(facts.labels)]},
                    {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
                ],
            }
        )

    async def model_ready(self, request: Request, ref: str) -> Response:
        """200 where a call would be answered; asking loads nothing."""
        self._gate.check("predict", request.headers.get("authorization"))
        replica, view = self._replica, self._replica.follower.view
        way = route(view.catalog, ref, None, view.verified, replica.refused)
        ready, _ = await replica.readiness()
        return JSONResponse({"name": way.task, "ready": ready}, status_code=200 if ready else 503)

    async def infer(self, request: Request, ref: str) -> Response:
        """Probabilities and best label of every image."""
        async with self._passage.enter(request, ref) as call:
            body = await bodies.read(request, self._replica.settings.body_bytes)
            asked = await self._read(request, body)
            done = await self._classified(ref, call, asked)
            began = time.perf_counter()
            write = partial(_written, asked, done)
            brief = len(done) * len(done[0].labels) <= _BRIEF_ODDS
            content, json_length = write() if brief else await asyncio.to_thread(write)
            took = time.perf_counter() - began
            for one in done:
                self._passage.note(one, took / len(done))
            headers = self._passage.headers(done[0])
            if json_length is None:
                return Response(content, headers=headers, media_type="application/json")
            headers[_JSON_LENGTH] = str(json_length)
            return Response(content, headers=headers, media_type="application/octet-stream")

    async def _read(self, request: Request, body: bytes) -> Asked:
        settings = self._replica.settings
        coding = request.headers.get("content-encoding", "")
        json_length = request.headers.get(_JSON_LENGTH)

        def read() -> Asked:
            plain = inference_wire.inflated(body, coding, settings.body_bytes)
            return inference_wire.read(plain, json_length, settings.files_max)

        if coding or len(body) > _BRIEF_BYTES:
            return await asyncio.to_thread(read)
        return read()

    async def _classified(self, ref: str, call: Visit, asked: Asked) -> Sequence[Classified]:
        """The answer to every image; all are one release's: rows of one tensor have one length."""
        left_s = call.left_s if asked.timeout_s is None else min(call.left_s, asked.timeout_s)
        outcomes = await self._replica.classify_alike(
            ref, asked.images, key=call.key, budget_s=left_s
        )
        done = []
        for i, outcome in enumerate(outcomes):
            if isinstance(outcome, ImageInvalidError) and len(outcomes) > 1:
                raise ImageInvalidError(f"image {i}: {outcome}")
            if isinstance(outcome, BaseException):
                raise outcome
            done.append(outcome)
        return done


def _written(asked: Asked, done: Sequence[Classified]) -> tuple[bytes, int | None]:
    way = done[0].route
    return inference_wire.written(
        asked,
        Computed(
            model=way.task,
            version=str(way.release),
            labels=done[0].labels,
            odds=[odds(one.answer.logits) for one in done],
        ),
    )
