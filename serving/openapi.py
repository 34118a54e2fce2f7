"""What `/openapi.json` says beyond what FastAPI sees in the handlers. Knows no replica and no Ray.

Handlers read raw requests and write raw answers, so a table says what each call takes and gives.
Tests see to it that every route has a row, and that no answer is outside of its row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving import answers
from serving.auth import Scope
from serving.lifecycle import WHY

Document = dict[str, Any]
_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_REF: Final = "#/components/schemas/{model}"
_BEARER: Final = "bearer"
_LENGTH: Final = "Inference-Header-Content-Length"

_HEADERS: Final[Mapping[str, tuple[Document, str]]] = {
    "X-Request-Deadline-Ms": (
        {"type": "number", "minimum": 0, "maximum": 2**53 - 1},
        "time to answer; 504 where it cannot be met",
    ),
    "X-Min-Generation": (
        {"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
        "of a change that the answer must know; 503 where this replica does not know it in time",
    ),
    "X-Route-Key": (
        {"type": "string"},
        "decides between the releases of a split: the same key stays with the same release",
    ),
    "X-Why": (
        {"type": "string", "pattern": WHY},
        "why it is changed, for the history",
    ),
    "If-Match": (
        {"type": "string", "pattern": r'^((W/)?"[0-9]{1,18}"|[0-9]{1,18})$'},
        "the ETag of the task as it was read; 412 where somebody changed it since",
    ),
    _LENGTH: (
        {"type": "integer", "minimum": 0},
        "bytes of JSON before binary tensors; 0: the whole body is one image",
    ),
}
_GIVEN: Final[Mapping[str, tuple[Document, str]]] = {
    "X-Generation": ({"type": "integer", "minimum": 0}, "of the catalog that answered"),
    "X-Adapter-Digest": ({"type": "string", "pattern": "^[0-9a-f]{64}$"}, "of what answered"),
    "Server-Timing": ({"type": "string"}, "decode, queue and compute, in milliseconds"),
    "ETag": ({"type": "string"}, "generation of the task's last change, for If-Match"),
    "Retry-After": ({"type": "integer", "minimum": 1}, "seconds"),
    "Allow": ({"type": "string"}, "the verbs of this path"),
    "WWW-Authenticate": ({"type": "string"}, "Bearer"),
    _LENGTH: ({"type": "integer", "minimum": 1}, "where binary tensors follow the JSON"),
}
_ALWAYS: Final = (405, 431, 503)  # no such verb; too many headers; the server is stopping
_ASKED: Final = ("X-Request-Deadline-Ms", "X-Min-Generation", "X-Route-Key")
_ANSWERED: Final = ("X-Generation", "X-Adapter-Digest", "Server-Timing")
_WITH: Final[Mapping[int, tuple[str, ...]]] = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_CHANGE: Final = ("If-Match", "X-Why")

Body = type[BaseModel] | tuple[type[BaseModel], ...] | Literal["text/plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One operation: what it answers with, why it may refuse, and headers both ways."""

    gives: Mapping[int, Body]
    refuses: tuple[int, ...] = ()
    takes: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()
    scope: Scope | None = "predict"
    binary: bool = False  # tensors may follow the JSON


def _read(body: Body, *refuses: int, tells: tuple[str, ...] = ()) -> Call:
    return Call(gives={200: body}, refuses=refuses, tells=tells)


_PREDICT: Final = Call(
    gives={200: (answers.Prediction, answers.Results)},
    refuses=(400, 404, 413, 415, 422, 429, 504),
    takes=_ASKED,
    tells=_ANSWERED,
)
_ORDER: Final = Call(
    gives={200: answers.Changed},
    refuses=(400, 404, 412, 413, 415, 422, 507),
    takes=("If-Match",),
    tells=("X-Generation", "ETag"),
    scope="admin",
)
_INFER: Final = Call(
    gives={200: answers.Inferred},
    refuses=(400, 404, 413, 415, 429, 504),
    takes=(*_ASKED, _LENGTH),
    tells=(*_ANSWERED, _LENGTH),
    binary=True,
)
_MODEL: Final = _read(answers.Model, 404)
_MODEL_READY: Final = Call(
    gives={200: answers.ModelReady, 503: answers.ModelReady}, refuses=(404, 503)
)
_MEMORY: Final = Call(
    gives={200: answers.Moved}, refuses=(400, 404, 409, 413, 422, 504), scope="admin"
)

CALLS: Final[Mapping[str, Call]] = {
    "POST /v1/tasks/{task}:predict": _PREDICT,
    "POST /v1/predict": Call(
        gives={200: answers.Results},
        refuses=_PREDICT.refuses,
        takes=_ASKED,
        tells=("X-Generation", "Server-Timing"),
    ),
    "GET /v1/tasks": _read(answers.Tasks, 422, tells=("X-Generation",)),
    "GET /v1/tasks/{task}": _read(answers.Task, 404, tells=("X-Generation", "ETag")),
    "GET /v1/tasks/{task}/history": _read(answers.History, 404, tells=("X-Generation",)),
    "PUT /v1/tasks/{task}": Call(
        gives={200: answers.Published, 201: answers.Published},
        refuses=(400, 409, 412, 413, 422, 507),
        takes=_CHANGE,
        tells=("X-Generation", "ETag"),
        scope="admin",
    ),
    "DELETE /v1/tasks/{task}": Call(
        gives={200: answers.Changed},
        refuses=(400, 404, 412, 507),
        takes=_CHANGE,
        tells=("X-Generation", "ETag"),
        scope="admin",
    ),
    "POST /v1/tasks/{task}:activate": _ORDER,
    "POST /v1/tasks/{task}:alias": _ORDER,
    "POST /v1/tasks/{task}:split": _ORDER,
    "GET /healthz": Call(gives={200: answers.Health, 503: answers.Health}, scope=None),
    "GET /readyz": Call(gives={200: answers.Readiness, 503: answers.Readiness}, scope=None),
    "GET /metrics": Call(gives={200: "text/plain"}, scope=None),
    "GET /v2": _read(answers.Server),
    "GET /v2/health/live": Call(gives={200: answers.Live, 503: answers.Live}, scope=None),
    "GET /v2/health/ready": Call(gives={200: answers.Ready, 503: answers.Ready}, scope=None),
    "GET /v2/models/{task}": _MODEL,
    "GET /v2/models/{task}/versions/{release}": _MODEL,
    "GET /v2/models/{task}/ready": _MODEL_READY,
    "GET /v2/models/{task}/versions/{release}/ready": _MODEL_READY,
    "POST /v2/models/{task}/infer": _INFER,
    "POST /v2/models/{task}/versions/{release}/infer": _INFER,
    "POST /v2/repository/index": _read(answers.Index, 400, 413),
    "POST /v2/repository/models/{task}/load": _MEMORY,
    "POST /v2/repository/models/{task}/unload": _MEMORY,
}


def completed(document: Document, *, tokens: bool) -> Document:
    """FastAPI's document with everything in the table; `tokens`: whether calls need one.

    Raises:
        KeyError: an operation has no row.
    """
    paths = {
        path: {
            verb: _operation(verb, path, operation, tokens=tokens)
            for verb, operation in operations.items()
        }
        for path, operations in document["paths"].items()
    }
    return {**document, "paths": paths, "components": _components(tokens=tokens)}


def _components(*, tokens: bool) -> Document:
    models = {m for call in CALLS.values() for body in call.gives.values() for m in _models(body)}
    models |= {answers.Problem, answers.ProtocolError}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(m, "serialization") for m in ordered], ref_template=_REF)
    scheme = {"type": "http", "scheme": "bearer"}
    return {"schemas": schemas["$defs"]} | (
        {"securitySchemes": {_BEARER: scheme}} if tokens else {}
    )


def _operation(verb: str, path: str, operation: Document, *, tokens: bool) -> Document:
    call = CALLS[f"{verb.upper()} {path}"]
    headers = [
        {"name": name, "in": "header", "required": False, "description": what, "schema": schema}
        for name, (schema, what) in ((name, _HEADERS[name]) for name in call.takes)
    ]
    parameters = [*operation.get("parameters", ()), *headers]
    whole = {**operation, "responses": _responses(call, protocol=path.startswith("/v2"))}
    if parameters:
        whole["parameters"] = parameters
    if tokens and call.scope is not None:
        whole["security"] = [{_BEARER: []}]
    return whole


def _responses(call: Call, *, protocol: bool) -> Document:
    refused = {*_ALWAYS, *call.refuses, *(() if call.scope is None else (401, 403))}
    found: Document = {}
    for status in sorted({*call.gives, *refused}):
        content: Document = {}
        names: list[str] = []
        if status in call.gives:
            content |= _content(call, call.gives[status])
            names += call.tells
        if status in refused and protocol:
            known = content.get(_JSON, {}).get("schema")
            error = _ref(answers.ProtocolError)
            content[_JSON] = {"schema": {"anyOf": [known, error]} if known else error}
        elif status in refused:
            content[_PROBLEM] = {"schema": _ref(answers.Problem)}
        names += _WITH.get(status, ())
        found[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
        if names:
            found[str(status)]["headers"] = {
                name: {"schema": schema, "description": what}
                for name, (schema, what) in ((name, _GIVEN[name]) for name in names)
            }
    return found


def _content(call: Call, body: Body) -> Document:
    if body == "text/plain":
        return {"text/plain": {"schema": {"type": "string"}}}
    refs = [_ref(model) for model in _models(body)]
    content: Document = {_JSON: {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}}
    if call.binary:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return content


def _models(body: Body) -> tuple[type[BaseModel], ...]:
    if isinstance(body, str):
        return ()
    return body if isinstance(body, tuple) else (body,)


def _ref(model: type[BaseModel]) -> Document:
    return {"$ref": _REF.format(model=model.__name__)}
