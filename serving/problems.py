"""Errors as RFC 9457 problem documents: the one place where an exception becomes a status."""

import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from adapters_store.errors import (
    ArtifactInvalidError,
    BackboneMismatchError,
    CatalogError,
    EffectFailedError,
    EventUnknownError,
    ImageInvalidError,
    LawBrokenError,
    MethodUnknownError,
    MismatchError,
    NameInvalidError,
    PreconditionFailedError,
    ReleaseInUseError,
    ReleaseNotFoundError,
    RootstockError,
    SplitInvalidError,
    StoreError,
    StoreFullError,
    StoreUnsupportedError,
    TaskMismatchError,
    TaskNotFoundError,
)
from serving.errors import (
    BehindError,
    ClosingError,
    DeadlineError,
    EngineLostError,
    ForbiddenError,
    MediaUnsupportedError,
    OverloadedError,
    QuarantinedError,
    ReleaseFailedError,
    RequestInvalidError,
    TaskBusyError,
    TooLargeError,
    UnauthorizedError,
)

# class → (status, code); the first class in the error's ancestry that is here decides.
STATUS: Final[Mapping[type[BaseException], tuple[int, str]]] = {
    ImageInvalidError: (400, "image_invalid"),
    RequestInvalidError: (400, "request_invalid"),
    UnauthorizedError: (401, "unauthorized"),
    ForbiddenError: (403, "forbidden"),
    TaskNotFoundError: (404, "task_not_found"),
    ReleaseNotFoundError: (404, "release_not_found"),
    BackboneMismatchError: (409, "backbone_mismatch"),
    TaskMismatchError: (409, "task_mismatch"),
    MismatchError: (409, "mismatch"),
    ReleaseInUseError: (409, "release_in_use"),
    PreconditionFailedError: (412, "precondition_failed"),
    TooLargeError: (413, "too_large"),
    MediaUnsupportedError: (415, "media_unsupported"),
    ArtifactInvalidError: (422, "artifact_invalid"),
    EffectFailedError: (422, "effect_failed"),
    LawBrokenError: (422, "law_broken"),
    MethodUnknownError: (422, "method_unknown"),
    NameInvalidError: (422, "name_invalid"),
    SplitInvalidError: (422, "split_invalid"),
    CatalogError: (422, "refused"),
    TaskBusyError: (429, "task_busy"),
    OverloadedError: (503, "overloaded"),
    ClosingError: (503, "closing"),
    BehindError: (503, "behind"),
    EngineLostError: (503, "engine_lost"),
    QuarantinedError: (503, "quarantined"),
    ReleaseFailedError: (503, "release_failed"),
    EventUnknownError: (503, "log_unreadable"),
    StoreUnsupportedError: (503, "store_unsupported"),
    StoreError: (503, "store_unavailable"),
    StoreFullError: (507, "store_full"),
    DeadlineError: (504, "deadline"),
}
_TITLES: Final = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    412: "Precondition failed",
    413: "Content too large",
    415: "Unsupported media type",
    422: "Unprocessable content",
    429: "Too many requests",
    431: "Request header fields too large",
    500: "Internal error",
    503: "Service unavailable",
    504: "Deadline exceeded",
    507: "Insufficient storage",
}


def status_of(error: BaseException) -> tuple[int, str]:
    """(status, code) of an error; 500 for anything that was not raised on purpose."""
    for ancestor in type(error).__mro__:
        if ancestor in STATUS:
            return STATUS[ancestor]
    return 500, "internal"


def problem(error: BaseException) -> dict[str, Any]:
    """The problem document of an error. Nothing unexpected is shown to a client."""
    status, code = status_of(error)
    detail = "the server failed; see its log"
    if isinstance(error, RootstockError) and status != 500:
        detail = str(error)
    if isinstance(error, StoreError):
        # Its address is nobody's business.
        full = isinstance(error, StoreFullError)
        detail = "the store is full" if full else "the store cannot be used just now"
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES[status],
        "status": status,
        "code": code,
        "detail": detail,
    }
    if isinstance(error, ArtifactInvalidError | EffectFailedError | MismatchError):
        document["faults"] = list(error.faults)
    return document


def refusal(error: BaseException) -> Response:
    """The whole answer to a request that ended in an error."""
    document = problem(error)
    headers = {}
    if document["status"] in (429, 503):
        headers["Retry-After"] = str(getattr(error, "retry_after_s", 1))
    if document["status"] == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return plain_problem(document, headers)


def plain_problem(
    document: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """A problem document as an answer."""
    return Response(
        json.dumps(document, ensure_ascii=False),
        status_code=document["status"],
        headers=dict(headers or {}),
        media_type="application/problem+json",
    )


def http_problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """A problem for what the web framework refuses by itself: no such path, no such verb."""
    title = _TITLES.get(status, "Error")
    return plain_problem(
        {"type": "about:blank", "title": title, "status": status, "detail": detail}, headers
    )


def worded(path: str, refused: Response) -> Response:
    """A problem document as the protocol under this path words it: /v2 says {"error": "…"}."""
    if path != "/v2" and not path.startswith("/v2/"):
        return refused
    document = json.loads(bytes(refused.body))
    kept = {k: v for k, v in refused.headers.items() if not k.startswith("content-")}
    return Response(
        json.dumps({"error": document.get("detail") or document["title"]}),
        status_code=refused.status_code,
        headers=kept,
        media_type="application/json",
    )
