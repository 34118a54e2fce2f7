"""Blobs: artifacts by the digest of their bytes. Knows no task, no event and no tensor."""

import hashlib
import re
from typing import Final

from adapters_store.errors import StoreCorruptError, StoreUnavailableError
from adapters_store.objects import Objects, Stat

BLOB_BYTES_MOST: Final = 2**30  # far above any artifact: what a reader takes into memory at once
_FOLDER: Final = "blobs/sha256"
_NAME: Final = re.compile(r"([0-9a-f]{64})\.safetensors")


class Blobs:
    """The blobs of one backbone. They never change; writing one again only makes it younger."""

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
            raise StoreUnavailableError(self._objects.uri, f"{path} is missing")
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise StoreCorruptError(path, f"its bytes have digest {found}")
        return data

    def delete(self, digest: str) -> None:
        """Remove a blob; absent ones are no error."""
        self._objects.delete(_path(digest))

    def all(self) -> dict[str, Stat]:
        """Every blob by digest. What is not named like a blob is none."""
        names = ((_NAME.fullmatch(s.path.rpartition("/")[2]), s) for s in self._stats())
        return {name[1]: stat for name, stat in names if name}

    def _stats(self) -> list[Stat]:
        return self._objects.under(_FOLDER)


def _path(digest: str) -> str:
    return f"{_FOLDER}/{digest}.safetensors"
