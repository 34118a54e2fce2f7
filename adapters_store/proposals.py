"""Preconditions: the event that a wish becomes, or why it may not. Knows no store and no clock.

Every function takes the freshest catalog and answers with the event for its next generation. The
writer calls it again whenever somebody else took that number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters_store.catalog import Catalog, Release, TaskState
from adapters_store.errors import (
    NameInvalidError,
    PreconditionFailedError,
    ReleaseInUseError,
    ReleaseNotFoundError,
    SplitInvalidError,
)
from adapters_store.events import ALIAS_NAME, Activate, Alias, Publish, Retire, Split
from adapters_store.manifest import TASK_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Who wishes it, when and why; `id` tells this wish from all others."""

    id: str
    at: str  # UTC, ISO 8601
    by: str
    why: str


def check_task_name(task: str) -> None:
    """Refuse what can never be a task.

    Raises:
        NameInvalidError: the name breaks the rule.
    """
    if not TASK_NAME.fullmatch(task):
        raise NameInvalidError(task, TASK_NAME.pattern)


def propose_publish(
    catalog: Catalog,
    stamp: Stamp,
    task: str,
    digest: str,
    size: int,
    *,
    activate: bool,
    if_match: int | None = None,
) -> Publish | Activate | Release:
    """A new release; or, for bytes that are one already, that release or its activation.

    Raises:
        NameInvalidError: the name breaks the rule.
        PreconditionFailedError: the task is not at generation `if_match` (0: it does not exist).
    """
    check_task_name(task)
    state = catalog.tasks.get(task) or TaskState(name=task)
    _check_generation(state, if_match)
    same = state.holding(digest)
    if same is None:
        return Publish(
            **_common(catalog, stamp, task),
            release=state.releases[-1].number + 1 if state.releases else 1,
            digest=digest,
            bytes=size,
            activate=activate,
        )
    if not activate or (state.active == same.number and not state.split):
        return same
    return Activate(**_common(catalog, stamp, task), release=same.number)


def propose_activate(
    catalog: Catalog, stamp: Stamp, task: str, release: int, *, if_match: int | None = None
) -> Activate:
    """A live release answers for its task.

    Raises:
        TaskNotFoundError, ReleaseNotFoundError, PreconditionFailedError
    """
    state = catalog.task(task)
    _check_generation(state, if_match)
    state.release(release)
    return Activate(**_common(catalog, stamp, task), release=release)


def propose_alias(
    catalog: Catalog,
    stamp: Stamp,
    task: str,
    alias: str,
    release: int | None,
    *,
    if_match: int | None = None,
) -> Alias:
    """A name for a live release; None takes the name away.

    Raises:
        NameInvalidError, TaskNotFoundError, ReleaseNotFoundError, PreconditionFailedError
    """
    if not ALIAS_NAME.fullmatch(alias):
        raise NameInvalidError(alias, ALIAS_NAME.pattern)
    state = catalog.task(task)
    _check_generation(state, if_match)
    if release is not None:
        state.release(release)
    elif alias not in state.aliases:
        raise ReleaseNotFoundError(task, alias)
    return Alias(**_common(catalog, stamp, task), alias=alias, release=release)


def propose_split(
    catalog: Catalog,
    stamp: Stamp,
    task: str,
    weights: Mapping[int, int],
    *,
    if_match: int | None = None,
) -> Split:
    """Divide a task's traffic over live releases. `activate` ends it.

    Raises:
        TaskNotFoundError, ReleaseNotFoundError, SplitInvalidError, PreconditionFailedError
    """
    state = catalog.task(task)
    _check_generation(state, if_match)
    if not weights:
        raise SplitInvalidError(task, "it names no release")
    for number, weight in weights.items():
        if type(weight) is not int or not 0 < weight < 2**31:
            raise SplitInvalidError(task, f"weight {weight!r} is not a positive whole number")
        state.release(number)
    return Split(**_common(catalog, stamp, task), weights=dict(weights))


def propose_retire(
    catalog: Catalog, stamp: Stamp, task: str, release: int | None, *, if_match: int | None = None
) -> Retire:
    """Take away a release that nothing points at, or (None) the whole task.

    Raises:
        TaskNotFoundError, ReleaseNotFoundError, ReleaseInUseError, PreconditionFailedError
    """
    state = catalog.task(task)
    _check_generation(state, if_match)
    if release is not None:
        state.release(release)
        uses = state.uses(release)
        if uses:
            raise ReleaseInUseError(task, release, uses)
    return Retire(**_common(catalog, stamp, task), release=release)


def _check_generation(state: TaskState, if_match: int | None) -> None:
    if if_match is not None and if_match != state.generation:
        raise PreconditionFailedError(state.name, if_match, state.generation)


def _common(catalog: Catalog, stamp: Stamp, task: str) -> dict[str, Any]:
    return {
        "id": stamp.id,
        "generation": catalog.generation + 1,
        "at": stamp.at,
        "by": stamp.by,
        "why": stamp.why,
        "task": task,
    }
