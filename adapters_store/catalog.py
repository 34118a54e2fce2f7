"""The catalog: releases, and which one answers for a task. Knows no store, no clock and no tensor.

It is a fold over the events of the log. Folding is total: what an event names and the catalog lacks
is ignored, so every reader of a log arrives at the same catalog. That events make sense is seen to
by the writer, before the log takes them (`proposals`).
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import attrgetter
from typing import ClassVar, Final

from pydantic import ConfigDict

from adapters_store.errors import ReleaseNotFoundError, TaskNotFoundError
from adapters_store.events import Activate, Alias, Event, Publish, Retire, Split

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")  # what stands behind the @ of flowers@3
_STRICT: Final = ConfigDict(
    extra="forbid", strict=True
)  # for snapshots, which are read from outside


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A published, immutable adapter: `flowers@3`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    task: str
    number: int
    digest: str  # sha256 of the artifact, hex
    bytes: int  # size of the artifact
    generation: int  # of the publish event
    at: str  # UTC, ISO 8601
    by: str
    why: str
    retired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """One task. Active, aliased and split releases are live, that is: present and not retired."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    releases: tuple[Release, ...] = ()  # by number, retired ones included
    active: int | None = None
    aliases: Mapping[str, int] = field(default_factory=dict)
    split: Mapping[int, int] = field(default_factory=dict)  # release number to weight
    retired: bool = False
    generation: int = 0  # of the last event that touched it

    def find(self, number: int) -> Release | None:
        """The live release of this number, if there is one."""
        at = bisect_left(self.releases, number, key=attrgetter("number"))
        if at == len(self.releases) or self.releases[at].number != number:
            return None
        return None if self.releases[at].retired else self.releases[at]

    def release(self, number: int) -> Release:
        """The live release of this number.

        Raises:
            ReleaseNotFoundError: there is none.
        """
        found = self.find(number)
        if found is None:
            raise ReleaseNotFoundError(self.name, str(number))
        return found

    def holding(self, digest: str) -> Release | None:
        """The live release with these bytes, if there is one."""
        return next((r for r in self.releases if r.digest == digest and not r.retired), None)

    def uses(self, number: int) -> tuple[str, ...]:
        """What sends requests to this release: "active", "alias stable", "split"."""
        return (
            *(("active",) if number == self.active else ()),
            *(f"alias {name}" for name, to in sorted(self.aliases.items()) if to == number),
            *(("split",) if number in self.split else ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Every task, as of one generation. `Catalog()` is what an empty log folds to."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    generation: int = 0
    tasks: Mapping[str, TaskState] = field(default_factory=dict)  # retired tasks included

    def task(self, name: str) -> TaskState:
        """The task of this name.

        Raises:
            TaskNotFoundError: there is none, or it is retired.
        """
        state = self.tasks.get(name)
        if state is None or state.retired:
            raise TaskNotFoundError(name)
        return state

    def check(self) -> None:
        """Hold the invariants up to the light.

        Raises:
            ValueError: one is broken.
        """
        for name, state in self.tasks.items():
            numbers = [r.number for r in state.releases]
            pointed = {*state.aliases.values(), *state.split, state.active} - {None}
            live = {r.number for r in state.releases if not r.retired}
            touched = [r.generation for r in state.releases] + [state.generation, self.generation]
            faults = {
                "is kept under another name": name != state.name,
                "holds another task's release": any(r.task != name for r in state.releases),
                "has no release, or their numbers do not ascend from 1": not numbers
                or numbers[0] < 1
                or any(a >= b for a, b in pairwise(numbers)),
                "points at a release that is not live": not pointed <= live,
                "is retired and has live releases": state.retired and bool(live),
                "splits by a weight below 1": any(w < 1 for w in state.split.values()),
                "has generations out of order": touched != sorted(touched),
            }
            for fault, broken in faults.items():
                if broken:
                    raise ValueError(f"task {name!r} {fault}")


def fold(catalog: Catalog, event: Event) -> Catalog:
    """The catalog after one more event."""
    return fold_all(catalog, (event,))


def fold_all(catalog: Catalog, events: Iterable[Event]) -> Catalog:
    """The catalog after these events, which follow its generation without a gap."""
    tasks, generation = dict(catalog.tasks), catalog.generation
    for event in events:
        generation += 1
        assert event.generation == generation, "the log is read in order and without gaps"
        state = _apply(tasks.get(event.task) or TaskState(name=event.task), event)
        if state is not None:
            tasks[event.task] = replace(state, generation=generation)
    return Catalog(generation=generation, tasks=tasks)


def resolve(catalog: Catalog, ref: str, key: str | None = None) -> Release:
    """The release that `task`, `task@3` or `task@alias` means.

    A task under a split answers by `key`: the same key stays with the same release for as long as
    the weights stay, in every process. Without a key the active release answers.

    Raises:
        TaskNotFoundError: no such task, or it is retired.
        ReleaseNotFoundError: no such release or alias, or nothing of the task is active.
    """
    name, marked, tail = ref.partition("@")
    state = catalog.task(name)
    if marked:
        number = int(tail) if _NUMBER.fullmatch(tail) else state.aliases.get(tail)
    elif state.split and key is not None:
        number = _pick(state, key)
    else:
        tail, number = "active", state.active
    if number is None:
        raise ReleaseNotFoundError(name, tail)
    return state.release(number)


def _pick(state: TaskState, key: str) -> int:
    """Where the key's point falls on the line of all weights, laid end to end by number."""
    proof = hashlib.sha256(f"{state.name}\n{key}".encode("utf-8", "surrogatepass")).digest()
    point = int.from_bytes(proof[:8], "big") * sum(state.split.values()) >> 64
    for number in sorted(state.split):
        point -= state.split[number]
        if point < 0:
            return number
    raise AssertionError("the point lies on the line")


def _apply(state: TaskState, event: Event) -> TaskState | None:  # noqa: PLR0911 (one a kind)
    """The task after the event; None where the event has no effect."""
    match event:
        case Publish():
            return _published(state, event)
        case Activate(release=number) if state.find(number):
            return replace(state, active=number, split={})
        case Alias(alias=alias, release=None) if alias in state.aliases:
            return replace(state, aliases={k: v for k, v in state.aliases.items() if k != alias})
        case Alias(alias=alias, release=int(number)) if state.find(number):
            return replace(state, aliases={**state.aliases, alias: number})
        case Split(weights=weights) if all(state.find(n) for n in weights):
            return replace(state, split=dict(sorted(weights.items())))
        case Retire(release=None) if state.releases and not state.retired:
            gone = tuple(r if r.retired else replace(r, retired=True) for r in state.releases)
            return TaskState(name=state.name, releases=gone, retired=True)
        case Retire(release=int(number)) if state.find(number):
            return _retired(state, number)
        case _:
            return None


def _published(state: TaskState, event: Publish) -> TaskState | None:
    if state.releases and event.release <= state.releases[-1].number:
        return None
    release = Release(
        task=event.task,
        number=event.release,
        digest=event.digest,
        bytes=event.bytes,
        generation=event.generation,
        at=event.at,
        by=event.by,
        why=event.why,
    )
    state = replace(state, releases=(*state.releases, release), retired=False)
    return replace(state, active=event.release, split={}) if event.activate else state


def _retired(state: TaskState, number: int) -> TaskState:
    return replace(
        state,
        releases=tuple(
            replace(r, retired=True) if r.number == number else r for r in state.releases
        ),
        active=None if state.active == number else state.active,
        aliases={k: v for k, v in state.aliases.items() if v != number},
        split={} if number in state.split else state.split,
    )
