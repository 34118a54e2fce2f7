"""The store of one backbone: blobs and a catalog that changes. Knows no tensor and no method.

Publishing writes the blob first and the event last, so that a crash leaves nothing or a whole
release. What the bytes of a blob mean is checked by the caller, before.
"""

import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from adapters_store.blobs import Blobs
from adapters_store.catalog import Catalog, Release, fold
from adapters_store.errors import NameInvalidError, StoreUnavailableError
from adapters_store.events import Event, Publish
from adapters_store.log import CatchUp, Log, back_off
from adapters_store.objects import TIMEOUT_S, Objects
from adapters_store.proposals import (
    Stamp,
    check_task_name,
    propose_activate,
    propose_alias,
    propose_publish,
    propose_retire,
    propose_split,
)
from adapters_store.upkeep import GcReport, StoreReport, collect, verify

_ATTEMPTS: Final = 100  # at a number that other writers keep taking
_TEXT_MOST: Final = 1000  # characters of `by` and `why`
_DIGEST: Final = re.compile(r"[0-9a-f]{16}([0-9a-f]{48})?")
_FOLDER: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What publishing came to. A reader at `generation` has it."""

    release: Release
    generation: int
    created: bool  # False: the bytes were this release already


class AdapterStore:
    """Releases of one backbone in an object store. Blocking; threads may share it."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._log, self._blobs = Log(objects), Blobs(objects)
        self._writing = threading.Lock()  # one writer of this process at a time
        self._adopting = threading.Lock()
        self._writable = False  # proven
        self._newest = Catalog()  # that any call has seen

    @classmethod
    def open(cls, uri: str, backbone: str, *, timeout_s: float = TIMEOUT_S) -> "AdapterStore":
        """The part of the store at `uri` that belongs to a backbone, given by its weights digest.

        Raises:
            NameInvalidError: no digest.
            StoreUnavailableError: the address means nothing. (A sound one is not tried yet.)
        """
        if not _DIGEST.fullmatch(backbone):
            raise NameInvalidError(backbone, _DIGEST.pattern)
        return cls(Objects.open(uri, backbone[:16], timeout_s=timeout_s))

    @property
    def uri(self) -> str:
        """The address as it was given."""
        return self._objects.uri

    def check_writable(self) -> None:
        """Prove once that the store honours put-if-absent. Every change does this first.

        Raises:
            StoreUnsupportedError, StoreUnavailableError
        """
        if not self._writable:
            self._objects.check_put_if_absent()
            self._writable = True

    def catch_up(self, catalog: Catalog) -> CatchUp:
        """The catalog after everything the log got since; begin with `Catalog()`.

        Where an entry cannot be read it stops in front of it and says so in `blocked`.

        Raises:
            StoreUnavailableError
        """
        return self._log.catch_up(catalog)

    def catalog(self) -> Catalog:
        """The catalog as of now, whole.

        Raises:
            EventUnknownError: the log holds an entry that this version cannot read.
            StoreUnavailableError
        """
        caught = self._log.catch_up(self._newest)
        self._adopt(caught.catalog)
        if caught.blocked:
            raise caught.blocked
        return caught.catalog

    def history(self, task: str) -> tuple[Event, ...]:
        """Every event of a task, oldest first. Reads the whole log."""
        events, blocked = self._log.read(0)
        if blocked:
            raise blocked
        return tuple(event for event in events if event.task == task)

    def blob(self, digest: str) -> bytes:
        """The artifact of this digest, proven to be it.

        Raises:
            StoreCorruptError, StoreUnavailableError
        """
        return self._blobs.get(digest)

    def publish(
        self,
        data: bytes,
        task: str,
        *,
        by: str,
        why: str = "",
        activate: bool = True,
        if_match: int | None = None,
    ) -> Published:
        """Make the bytes a release of the task, unless they are one already.

        Does not look into the bytes.

        Raises:
            NameInvalidError, PreconditionFailedError, EventUnknownError
            StoreUnsupportedError, StoreUnavailableError
        """
        check_task_name(task)
        self.check_writable()
        digest, stamp = self._blobs.put(data), _stamp(by, why)
        catalog, outcome = self._commit(
            lambda catalog: propose_publish(
                catalog, stamp, task, digest, len(data), activate=activate, if_match=if_match
            )
        )
        if self._blobs.stat(digest) is None:  # a collector took it between blob and event
            self._blobs.put(data)
        state = catalog.tasks[task]
        release = state.holding(digest)
        assert release is not None, "the event made it, or it was there"
        return Published(
            release=release, generation=state.generation, created=isinstance(outcome, Publish)
        )

    def activate(
        self, task: str, release: int, *, by: str, why: str = "", if_match: int | None = None
    ) -> int:
        """Let a release answer for its task; ends a split. Returns the generation.

        Raises:
            TaskNotFoundError, ReleaseNotFoundError, PreconditionFailedError, StoreError
        """
        stamp = _stamp(by, why)
        return self._change(
            lambda catalog: propose_activate(catalog, stamp, task, release, if_match=if_match)
        )

    def alias(
        self,
        task: str,
        alias: str,
        release: int | None,
        *,
        by: str,
        why: str = "",
        if_match: int | None = None,
    ) -> int:
        """Point an alias at a release, or (None) remove it. Returns the generation.

        Raises:
            NameInvalidError, TaskNotFoundError, ReleaseNotFoundError, PreconditionFailedError
            StoreError
        """
        stamp = _stamp(by, why)
        return self._change(
            lambda catalog: propose_alias(catalog, stamp, task, alias, release, if_match=if_match)
        )

    def split(
        self,
        task: str,
        weights: Mapping[int, int],
        *,
        by: str,
        why: str = "",
        if_match: int | None = None,
    ) -> int:
        """Divide a task's traffic over releases. Returns the generation.

        Raises:
            TaskNotFoundError, ReleaseNotFoundError, SplitInvalidError, PreconditionFailedError
            StoreError
        """
        stamp = _stamp(by, why)
        return self._change(
            lambda catalog: propose_split(catalog, stamp, task, weights, if_match=if_match)
        )

    def retire(
        self,
        task: str,
        release: int | None = None,
        *,
        by: str,
        why: str = "",
        if_match: int | None = None,
    ) -> int:
        """Retire one release, or the whole task. Returns the generation.

        Raises:
            TaskNotFoundError, ReleaseNotFoundError, ReleaseInUseError, PreconditionFailedError
            StoreError
        """
        stamp = _stamp(by, why)
        return self._change(
            lambda catalog: propose_retire(catalog, stamp, task, release, if_match=if_match)
        )

    def verify(self) -> StoreReport:
        """Read and check everything that is kept for this backbone."""
        return verify(self._log, self._blobs)

    def gc(self) -> GcReport:
        """Delete blobs that no live release names and that are older than 24 h."""
        return collect(self._objects, self._log, self._blobs, self.catalog())

    def _change(self, wish: Callable[[Catalog], Event]) -> int:
        self.check_writable()
        catalog, _ = self._commit(wish)
        return catalog.generation

    def _commit(
        self, wish: Callable[[Catalog], Event | Release]
    ) -> tuple[Catalog, Event | Release]:
        """Append what `wish` makes of the newest catalog; ask again if the number was lost."""
        with self._writing:
            for attempt in range(_ATTEMPTS):
                back_off(attempt)
                catalog = self.catalog()
                outcome = wish(catalog)
                if isinstance(outcome, Release):
                    return catalog, outcome
                if self._log.append(outcome):
                    catalog = fold(catalog, outcome)
                    self._adopt(catalog)
                    self._log.keep_snapshot(catalog)
                    return catalog, outcome
        raise StoreUnavailableError(self.uri, f"other writers were faster {_ATTEMPTS} times")

    def _adopt(self, catalog: Catalog) -> None:
        with self._adopting:
            if catalog.generation > self._newest.generation:
                self._newest = catalog


def list_backbones(uri: str, *, timeout_s: float = TIMEOUT_S) -> tuple[str, ...]:
    """The backbones, 16 hex digits each, that the store at `uri` ever had a release of.

    Raises:
        StoreUnavailableError
    """
    folders = Objects.open(uri, timeout_s=timeout_s).folders()
    return tuple(
        name
        for name in folders
        if _FOLDER.fullmatch(name) and Log(Objects.open(uri, name, timeout_s=timeout_s)).begun()
    )


def _stamp(by: str, why: str) -> Stamp:
    return Stamp(
        id=str(uuid.uuid4()), at=datetime.now(UTC).isoformat(), by=_plain(by), why=_plain(why)
    )


def _plain(text: str) -> str:
    """Text that JSON can carry and a log can bear."""
    return text[:_TEXT_MOST].encode("utf-8", "replace").decode()
