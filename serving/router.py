"""Which release answers a request. Pure: knows catalog and verdicts, no adapter and no queue."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from adapters_store.catalog import Catalog, Release, resolve
from serving.errors import ReleaseFailedError
from serving.types import Path, Route


def route(
    catalog: Catalog,
    ref: str,
    key: str | None,
    verified: Mapping[str, Sequence[Release]],
    refused: Callable[[str], bool],
) -> Route:
    """Resolve `task`, `task@3` or `task@alias`.

    A task whose active release does not pass on this replica is answered by the last one that did;
    a release that was asked for by number or alias never is.

    Args:
        catalog: as this replica has applied it.
        ref: what the client named.
        key: decides a split; the same key stays with the same release.
        verified: by task, the live releases that were active and passed here, the last first.
        refused: whether a digest is known never to be served here.

    Raises:
        TaskNotFoundError, ReleaseNotFoundError: no such thing.
        ReleaseFailedError: it exists, does not pass, and nothing earlier may stand in.
    """
    release = resolve(catalog, ref, key)
    if refused(release.digest):
        older = None if "@" in ref else standing_in(verified.get(release.task, ()), refused)
        if older is None:
            raise ReleaseFailedError(release.task, release.number)
        release = older
    return to(release, catalog)


def standing_in(passed: Iterable[Release], refused: Callable[[str], bool]) -> Release | None:
    """The first that is not refused: what passed once may have been quarantined since."""
    return next((release for release in passed if not refused(release.digest)), None)


def to(release: Release, catalog: Catalog) -> Route:
    """The way to one release."""
    return Route(
        task=release.task,
        release=release.number,
        digest=release.digest,
        generation=catalog.generation,
        path=Path.MIXED,
    )
