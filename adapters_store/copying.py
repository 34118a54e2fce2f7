"""Copying: releases of one store into another of the same backbone. Knows no command and no tensor.

The target gives its own numbers, authors and times; where a release came from is kept in `why`.
Bytes that the target has already are that release, so copying again writes nothing new.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from adapters_store.catalog import Catalog, Release, resolve
from adapters_store.store import AdapterStore, Published


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One release that is to be published in the target."""

    release: Release  # of the source
    activate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What one step came to."""

    step: Step
    published: Published  # in the target


def plan_copy(
    catalog: Catalog, refs: Sequence[str], *, whole: bool = False, activate: bool = True
) -> tuple[Step, ...]:
    """What to publish, in order. A ref is `task` (its active release), `task@3` or `task@alias`.

    With `whole`, a ref's task brings all its live releases in the order of their numbers, and the
    one that the ref means is what ends up active. A task of which nothing is active can be copied
    whole, and is not active in the target either.

    Raises:
        TaskNotFoundError, ReleaseNotFoundError: before anything is copied.
    """
    steps: list[Step] = []
    for ref in refs:
        state = catalog.task(ref.partition("@")[0])
        if whole and ref == state.name and state.active is None:
            chosen = None
        else:
            chosen = resolve(catalog, ref)
        if whole:
            steps += [Step(release=r, activate=False) for r in state.releases if not r.retired]
        if chosen is not None and (activate or not whole):
            if steps and steps[-1].release == chosen:
                steps.pop()
            steps.append(Step(release=chosen, activate=activate))
    return tuple(steps)


def copy_releases(
    source: AdapterStore, target: AdapterStore, steps: Sequence[Step], *, by: str, why: str = ""
) -> Iterator[Copied]:
    """Do the steps one after the other, each proven by its digest on the way.

    A failure ends it; what was copied before stays, and copying again goes on from there.

    Raises:
        StoreCorruptError, StoreUnavailableError, StoreUnsupportedError, EventUnknownError
    """
    for step in steps:
        release = step.release
        published = target.publish(
            source.blob(release.digest),
            release.task,
            by=by,
            why=_whence(source.uri, release) + (f": {why}" if why else ""),
            activate=step.activate,
        )
        yield Copied(step=step, published=published)


def _whence(uri: str, release: Release) -> str:
    """Where a release came from, without what an address may hold of secrets."""
    if "://" in uri and not uri.startswith("file://"):
        parts = urlsplit(uri)
        uri = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return f"copied from {uri} {release.task}@{release.number} by {release.by}"
