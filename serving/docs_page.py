"""The page at `/docs`, from files of this machine. Knows the web framework alone.

FastAPI's own page loads scripts of a public network into a page that may hold a token.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse
from starlette.responses import Response

_FOLDER: Final = Path(fastapi_offline.__file__).parent / "static"
_FILES: Final = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
# The page's own script is inline; nothing is fetched from, or sent to, any other server.
_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add(app: FastAPI) -> None:
    """Give the application its page, and the files of that page."""
    script, style, icon = (f"/docs/{name}" for name in _FILES)
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Rootstock",
        swagger_js_url=script,
        swagger_css_url=style,
        swagger_favicon_url=icon,
        swagger_ui_parameters={"validatorUrl": None},  # it would send the document away
    )
    page.headers.update(_HEADERS)

    async def show() -> Response:
        return page

    app.get("/docs", include_in_schema=False)(show)
    for name in _FILES:
        app.get(f"/docs/{name}", include_in_schema=False)(_giving(_FOLDER / name))


def _giving(file: Path) -> Callable[[], Awaitable[Response]]:
    async def give() -> Response:
        return FileResponse(file, headers=_HEADERS)

    return give
