"""How records of this process become lines on standard error. Knows Ray's formats and no record.

JSON lines are Serve's own: time, level, message, file, deployment, replica, the id of the request
that was being handled, and whatever the record adds.
"""

import json
import logging
from typing import Final, Literal

from ray import serve
from ray._common.formatters import JSONFormatter
from ray.serve._private.common import ServeComponentType
from ray.serve._private.logging_utils import ServeComponentFilter, ServeContextFilter

Format = Literal["json", "text"]

_ROOMS: Final = ("serving", "adapters_store")
_SERVE: Final = "ray.serve"


class JsonLine(JSONFormatter):  # type: ignore[misc]  # Ray has no types
    """One line a record, whatever its extra fields hold."""

    def format(self, record: logging.LogRecord) -> str:
        """`{"asctime": "…", "levelname": "INFO", "message": "catalog applied", …}`."""
        fields = self.generate_record_format_attrs(record, exclude_default_standard_attrs=False)
        return json.dumps(fields, default=str)


class TextLine(logging.Formatter):
    """One line a record, with its extra fields as key=value."""

    _USUAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        """`INFO 2026-11-20 15:49:51,984 serving.sync catalog applied generation=7`."""
        extra = {k: v for k, v in vars(record).items() if k not in self._USUAL}
        parts = (record.levelname, self.formatTime(record), record.name, record.getMessage())
        line = " ".join((*parts, *(f"{key}={value!s}" for key, value in extra.items())))
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def speak(how: Format) -> None:
    """Let our own rooms log to standard error; Ray sets up nothing for them."""
    handler = logging.StreamHandler()
    handler.setFormatter(TextLine())
    if how == "json":
        here = serve.get_replica_context()
        component = ServeComponentFilter(
            here.deployment, here.replica_id.unique_id, ServeComponentType.REPLICA
        )
        handler.setFormatter(JsonLine())
        handler.addFilter(ServeContextFilter())
        handler.addFilter(component)
        for theirs in logging.getLogger(_SERVE).handlers:
            if type(theirs) is logging.StreamHandler:  # Serve always writes text there
                theirs.setFormatter(JsonLine())
                theirs.addFilter(component)
    for name in _ROOMS:
        room = logging.getLogger(name)
        room.handlers, room.propagate = [handler], False
        room.setLevel(logging.INFO)
