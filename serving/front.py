"""What stands before Ray Serve in every process that speaks HTTP. Knows no task and no replica.

Serve takes orders from headers that any client may send: a time limit of none, no cancelling when
the client goes, a wish for one replica. They are taken off before Serve sees them. And a server
that is about to stop says so: Serve would answer 404, as if there were no such task. Serve calls
`middlewares` by its name, which `app.ENVIRONMENT` holds.
"""

import os
import re
from pathlib import Path
from typing import Final

from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.problems import http_problem, worded

# Where to look for the file that says that the server is about to stop.
LEAVING_VARIABLE: Final = "ROOTSTOCK_LEAVING"
# Serve takes `_` and `-` in the two routing headers for the same; here it is so for all.
CONTROL: Final = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve-multiplexed-model-id",
        os.environ.get("RAY_SERVE_SESSION_ID_HEADER_KEY", "x-session-id")
        .lower()
        .replace("_", "-")
        .encode(),
    }
)
# What Serve's own routers tell replicas, where they are used.
ROUTER: Final = b"x-serve-router-"
# HAProxy's own bound is half of it; the Python proxy has none.
HEADERS_BYTES: Final = 32 * 1024
_REQUEST_ID: Final = b"x-request-id"
# It is written to logs and sent back: one short word. Serve makes one where there is none.
_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


def middlewares() -> list[Middleware]:
    """For Serve's `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`."""
    leaving = os.environ.get(LEAVING_VARIABLE)
    return [Middleware(Front, leaving=Path(leaving) if leaving else None)]


class Front:
    """An application that never sees a control header, nor anything once the server is leaving."""

    def __init__(self, app: ASGIApp, leaving: Path | None = None) -> None:
        self._app, self._leaving = app, leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request or a socket without control headers, or refuse it."""
        app = self._app
        if "headers" in scope:
            scope = {**scope, "headers": stripped(scope["headers"])}
        if scope["type"] == "http":
            refusal = self._refusal(scope["headers"])
            app = app if refusal is None else worded(scope["path"], refusal)
        await app(scope, receive, send)

    def _refusal(self, headers: list[tuple[bytes, bytes]]) -> Response | None:
        if self._leaving is not None and self._leaving.exists():
            refusal = http_problem(503, "the server is stopping")
            refusal.headers.update({"Retry-After": "1", "Connection": "close"})
            return refusal
        if _bytes(headers) > HEADERS_BYTES:
            return http_problem(431, f"the headers have more than {HEADERS_BYTES} bytes")
        return None


def _bytes(headers: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in headers)


def stripped(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers without Serve's own; of request ids the first, where it is a plain word."""
    kept, known = [], False
    for name, value in headers:
        plain = name.lower().replace(b"_", b"-")
        if plain in CONTROL or plain.startswith(ROUTER):
            continue
        if plain == _REQUEST_ID:
            if known or name.lower() != _REQUEST_ID or not _ID.fullmatch(value):
                continue
            known = True
        kept.append((name, value))
    return kept
