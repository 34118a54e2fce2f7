"""The events of the log, one frozen model a kind. Knows no catalog, no store and no precondition.

A field that this version does not know is kept as it was read; a kind or a format that it does not
know stops the reader (`EventUnknownError`), because skipping it would fold a wrong catalog.
"""

import json
import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from adapters_store.errors import EventUnknownError
from adapters_store.manifest import Hex, TaskName, canonical

FORMAT: Final = 1

# Python's `$` also matches before a final newline, so the pattern is always used with fullmatch.
ALIAS_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")

AliasName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
Number = Annotated[int, Field(ge=1)]  # of a release
Weights = Annotated[dict[Number, Annotated[int, Field(ge=1)]], Field(min_length=1)]


class _Common(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    format: Literal[1] = FORMAT
    id: Annotated[str, Field(min_length=1)]  # of the attempt: a writer knows its own event by it
    generation: Annotated[int, Field(ge=1)]
    at: str  # UTC, ISO 8601
    by: str
    why: str
    task: TaskName


class Publish(_Common):
    """A task got a release; its number is one more than any it ever had."""

    kind: Literal["publish"] = "publish"
    release: Number
    digest: Hex
    bytes: Annotated[int, Field(ge=0)]
    activate: bool


class Activate(_Common):
    """A release answers for its task from now on; a split ends."""

    kind: Literal["activate"] = "activate"
    release: Number


class Alias(_Common):
    """A name points at a release, or (null) is gone."""

    kind: Literal["alias"] = "alias"
    alias: AliasName
    release: Number | None


class Split(_Common):
    """Traffic of a task is divided over releases in these proportions."""

    kind: Literal["split"] = "split"
    weights: Weights


class Retire(_Common):
    """A release, or (null) the whole task, is never answered with again."""

    kind: Literal["retire"] = "retire"
    release: Number | None


Event = Annotated[Publish | Activate | Alias | Split | Retire, Field(discriminator="kind")]

_EVENT: Final[TypeAdapter[Event]] = TypeAdapter(Event)
_KINDS: Final = ("publish", "activate", "alias", "split", "retire")


def parse_event(data: bytes, generation: int) -> Event:
    """The event in these bytes, which the log keeps under this generation.

    Raises:
        EventUnknownError: a newer format, an unknown kind, or no event at all.
    """
    try:
        event = _EVENT.validate_json(data)
    except ValidationError as error:
        raise EventUnknownError(generation, _reason(data, error)) from None
    if event.generation != generation:
        raise EventUnknownError(generation, f"it calls itself generation {event.generation}")
    return event


def event_to_json(event: Event) -> bytes:
    """The bytes that the log keeps: canonical JSON."""
    return canonical(event.model_dump(mode="json")).encode()


def _reason(data: bytes, error: ValidationError) -> str:
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return "it is not a JSON object"
    if value.get("format", FORMAT) != FORMAT:
        return f"format {str(value['format'])[:20]!r} is not {FORMAT}"
    if value.get("kind") not in _KINDS:
        return f"unknown kind {str(value.get('kind'))[:40]!r}"
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])[:80]}: {first['msg']}"
