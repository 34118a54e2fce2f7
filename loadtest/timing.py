"""What headers of an answer say of time: Server-Timing and Retry-After. Pure."""

import re
from functools import lru_cache
from typing import Final

_STAGES_MAX: Final = 16
_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')


def stages_of(headers: dict[bytes, bytes]) -> tuple[tuple[str, float], ...]:
    """Stages and their milliseconds, each once; what cannot be read is left out."""
    text = headers.get(b"server-timing")
    if text is None:
        return ()
    if b'"' in text:
        text = _QUOTED.sub(b"", text)
    found: dict[str, float] = {}
    for part in text.split(b",")[:_STAGES_MAX]:
        name, *parameters = part.split(b";")
        for parameter in parameters:
            key, _, value = parameter.strip().partition(b"=")
            if key == b"dur":
                try:
                    found.setdefault(_named(name.strip()), float(value))
                except ValueError:
                    continue
    return tuple(found.items())


def retry_after(headers: dict[bytes, bytes]) -> float:
    """Seconds to wait; NaN where nothing, or a date, is said."""
    text = headers.get(b"retry-after", b"")
    return float(text) if text.isdigit() else float("nan")


@lru_cache(maxsize=256)
def _named(name: bytes) -> str:
    return name.decode("latin-1")
