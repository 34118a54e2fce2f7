"""Blobs: artifacts by the digest of their bytes. Knows no task, no event and no tensor."""

import hashlib
import re
from typing import Final

from adapters_store.errors import StoreCorruptError, StoreUnavailableError
from adapters_store.objects import Objects, Stat

BLOB_BYTES_MOST: Final = 2**30  # far above any artifact: what a reader takes into memory at once
_FOLDER: Final = "blobs/sha256"
_ASIDE: Final = "condemned"
_NAME: Final = re.compile(r"([0-9a-f]{64})\.safetensors")


class Blobs:
    """The blobs of one backbone. They never change; writing one again only makes it younger.

    A collector does not delete a blob outright: it puts it aside, under the name of its own run,
    looks at the log once more, and then brings it back or buries it. A reader finds what was put
    aside, so that a collector may die in between.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def put(self, data: bytes) -> str:
        """Write the bytes, even if they are there: their age protects them from the collector."""
        digest = hashlib.sha256(data).hexdigest()
        self._objects.put(_path(digest), data)
        return digest

    def stat(self, digest: str) -> Stat | None:
        """Size and age; None if there is no such blob."""
        return self._objects.stat(_path(digest))

    def get(self, digest: str) -> bytes:
        """The bytes of this digest, proven to be those.

        Raises:
            StoreCorruptError: other bytes are there.
            StoreUnavailableError: nothing is there, or the store cannot be reached.
        """
        path = _path(digest)
        data = self._objects.get(path, BLOB_BYTES_MOST)
        if data is None:
            data = self._aside(digest)
        if data is None:
            raise StoreUnavailableError(self._objects.uri, f"{path} is missing")
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise StoreCorruptError(path, f"its bytes have digest {found}")
        return data

    def put_aside(self, digest: str, run: str) -> bool:
        """Take a blob out of its place and keep it for this run; False: it is gone already."""
        found = self._objects.copy(_path(digest), _path(digest, run))
        if found:
            self._objects.delete(_path(digest))
        return found

    def bring_back(self, digest: str, run: str) -> None:
        """Undo `put_aside`."""
        if self._objects.copy(_path(digest, run), _path(digest)):
            self.bury(digest, run)

    def bury(self, digest: str, run: str) -> None:
        """Delete what this run put aside; absent blobs are no error."""
        self._objects.delete(_path(digest, run))

    def all(self) -> dict[str, Stat]:
        """Every blob by digest. What is not named like a blob is none."""
        return {digest: stat for _, digest, stat in _named(self._objects.under(_FOLDER))}

    def aside(self) -> list[tuple[str, str, Stat]]:
        """(run, digest, stat) of every blob that a collector put aside, or a dead one left so."""
        return _named(self._objects.under(_ASIDE))

    def _aside(self, digest: str) -> bytes | None:
        for run, found, _ in self.aside():
            if found == digest:
                return self._objects.get(_path(digest, run), BLOB_BYTES_MOST)
        return None


def _named(stats: list[Stat]) -> list[tuple[str, str, Stat]]:
    found = []
    for stat in stats:
        folder, _, file = stat.path.rpartition("/")
        name = _NAME.fullmatch(file)
        if name:
            found.append((folder.rpartition("/")[2], name[1], stat))
    return found


def _path(digest: str, run: str = "") -> str:
    return f"{f'{_ASIDE}/{run}' if run else _FOLDER}/{digest}.safetensors"
