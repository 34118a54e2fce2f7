"""One line for each request, with what its handlers noted. Knows ASGI, no handler and no Ray.

Of what clients send, only a path's pattern, a task's name and the request id are written: never a
header, a query or a body, where secrets are. Lines are bounded, so that they cost no throughput.
"""

import logging
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import trace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters_store.manifest import TASK_NAME
from serving.types import Classified, Fleet

log = logging.getLogger(__name__)

_GONE: Final = 499  # the client left before its answer, as Serve counts it
_REF: Final = re.compile(rf"({TASK_NAME.pattern})(@[a-z0-9-]{{1,31}})?")
# Asked every few seconds by machines; only a bad answer is news.
_PROBES: Final = ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")
_noted: ContextVar[dict[str, Any]] = ContextVar("noted")


def note(**facts: object) -> None:
    """Something for the line of the request that is being handled; outside of one, nothing."""
    if (noted := _noted.get(None)) is not None:
        noted |= facts


def note_answer(done: Classified) -> None:
    """The same of one image's answer; of several answers the last, and how many there were."""
    if (noted := _noted.get(None)) is not None:
        noted |= {
            "task": done.route.task,
            "release": done.route.release,
            "generation": done.route.generation,
            "path": done.answer.path.value,
            "decode_ms": _ms(done.decode_s),
            "queue_ms": _ms(done.answer.queue_s),
            "compute_ms": _ms(done.answer.compute_s),
            "answers": noted.get("answers", 0) + 1,
        }


class Allowance:
    """So many lines in a second, and a count of those that were left out."""

    def __init__(self, lines_per_s: int) -> None:
        self._most = self._left = lines_per_s
        self._since, self._skipped = float("-inf"), 0

    def take(self, now: float) -> int | None:
        """Lines left out since the last one; None where this one is left out as well."""
        if now - self._since >= 1:
            self._since, self._left = now, self._most
        if not self._left:
            self._skipped += 1
            return None
        self._left -= 1
        skipped, self._skipped = self._skipped, 0
        return skipped


class AccessLog:
    """An application, and a line in the log for each of its requests."""

    def __init__(
        self,
        app: ASGIApp,
        fleet: Fleet,
        lines_per_s: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._fleet, self._clock = app, fleet, clock
        self._allowance = Allowance(lines_per_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; write when it ended, however it did."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = self._clock(), 0
        facts: dict[str, Any] = {}

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = _noted.set(facts)
        try:
            await self._app(scope, receive, told)
        except Exception:
            status = status or 500
            raise
        finally:
            _noted.reset(token)
            self._write(scope, status or _GONE, began, facts)

    def _write(self, scope: Scope, status: int, began: float, facts: dict[str, Any]) -> None:
        asked = str(scope.get("path_params", {}).get("task", ""))
        if "task" not in facts and _REF.fullmatch(asked):
            facts["task"] = asked
        _traced(facts)
        path = getattr(scope.get("route"), "path_format", None)
        if path in _PROBES and status < 400:
            return
        now = self._clock()
        skipped = self._allowance.take(now)
        if skipped is None and "by" not in facts and status != 500:  # changes and failures: always
            return
        whole = {
            "call": f"{scope['method'][:16]} {path or '(no such path)'}",
            "status": status,
            "ms": _ms(now - began),
            "request_id": self._fleet.request_id(),
            **facts,
        }
        if skipped:
            whole["left_out"] = skipped
        log.info("answered", extra=whole)


def _traced(facts: dict[str, Any]) -> None:
    """The same for the span of this request, where Serve traces it."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({f"rootstock.{name}": value for name, value in facts.items()})


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
