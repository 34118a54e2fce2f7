"""Objects by path in one object store. Knows obstore; knows no catalog, no event and no artifact.

Credentials and endpoints are obstore's own business: it reads `AWS_*`, `GOOGLE_*` and `AZURE_*`.
Every failure leaves here as a StoreError with one line of text.
"""

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, MemoryStore, from_url

from adapters_store.errors import (
    StoreCorruptError,
    StoreFullError,
    StoreUnavailableError,
    StoreUnsupportedError,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore

TIMEOUT_S: Final = 5.0  # of one read or write without progress; all tries end after about three
_CONNECT_S: Final = 2.0
_REQUEST_S: Final = 120.0  # a whole request, body included

PROBES: Final = "probe"  # the folder of objects that only ask what a store can do
_DRAFT: Final = re.compile(r"#[0-9]+$")

_MEMORY: Final[dict[str, MemoryStore]] = {}  # by name: what memory://NAME means in this process


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """What a store knows of an object without reading it."""

    path: str
    bytes: int
    modified: datetime  # by the store's clock


class Objects:
    """One folder of one object store. Paths are relative to it; threads may share it."""

    def __init__(self, raw: "ObjectStore", uri: str, folder: str = "") -> None:
        self._raw, self.uri, self._prefix = raw, uri, f"{folder}/" if folder else ""
        self._local = Path(raw.prefix or "/", folder) if isinstance(raw, LocalStore) else None

    @classmethod
    def open(cls, uri: str, folder: str = "", *, timeout_s: float = TIMEOUT_S) -> "Objects":
        """The store at `uri`: `s3://…`, `gs://…`, `az://…`, `file://…`, `memory://…` or a path.

        A local folder is made if absent. `memory://NAME` is one store for the whole process.

        Raises:
            StoreUnavailableError: the address means nothing. (A sound one is not tried yet.)
        """
        with _translated(uri):
            return cls(_raw(uri, timeout_s), uri, folder)

    def get(self, path: str, most_bytes: int) -> bytes | None:
        """The object's bytes; None if there is no such object.

        Raises:
            StoreCorruptError: it is larger than `most_bytes`, and was not read.
            StoreUnavailableError
        """
        with _translated(self.uri):
            try:
                found = obstore.get(self._raw, self._prefix + path)
                if found.meta["size"] > most_bytes:
                    raise StoreCorruptError(path, f"{found.meta['size']} bytes are too many")
                return bytes(found.bytes())
            except FileNotFoundError:
                return None

    def stat(self, path: str) -> Stat | None:
        """Size and age of an object; None if there is no such object."""
        with _translated(self.uri):
            try:
                meta = obstore.head(self._raw, self._prefix + path)
            except FileNotFoundError:
                return None
        return Stat(path=path, bytes=meta["size"], modified=meta["last_modified"])

    def put(self, path: str, data: bytes) -> None:
        """Write an object whole, over an older one if need be."""
        with _translated(self.uri):
            if self._local is None:
                obstore.put(self._raw, self._prefix + path, data)
            else:
                _write_file(self._local / path, data, os.replace)

    def put_new(self, path: str, data: bytes) -> bool:
        """Write an object unless there is one; False: there is, or somebody is just writing it."""
        with _translated(self.uri):
            try:
                if self._local is None:
                    obstore.put(self._raw, self._prefix + path, data, mode="create")
                else:
                    _write_file(self._local / path, data, os.link)
            except (AlreadyExistsError, PreconditionError, FileExistsError):
                return False
            except NotImplementedError:
                raise StoreUnsupportedError(self.uri, "it has no put-if-absent") from None
        return True

    def copy(self, path: str, to: str) -> bool:
        """Copy an object inside the store, over an older one; False: there is no such object."""
        with _translated(self.uri):
            try:
                obstore.copy(self._raw, self._prefix + path, self._prefix + to)
            except FileNotFoundError:
                return False
        return True

    def delete(self, path: str) -> None:
        """Remove an object; absent ones are no error."""
        with _translated(self.uri), suppress(FileNotFoundError):
            obstore.delete(self._raw, self._prefix + path)

    def under(self, folder: str) -> list[Stat]:
        """Every object under a folder, by path."""
        with _translated(self.uri):
            found = obstore.list(self._raw, self._prefix + folder).collect()
        cut = len(self._prefix)
        stats = [
            Stat(path=m["path"][cut:], bytes=m["size"], modified=m["last_modified"]) for m in found
        ]
        return sorted(stats, key=lambda stat: stat.path)

    def folders(self) -> tuple[str, ...]:
        """The names of the folders just below this one."""
        with _translated(self.uri):
            found = obstore.list_with_delimiter(self._raw, self._prefix or None)
        return tuple(sorted(name[len(self._prefix) :] for name in found["common_prefixes"]))

    def now(self) -> datetime:
        """The time by the store's clock: that of an object written just now, and taken away."""
        path = f"{PROBES}/{uuid.uuid4()}"
        try:
            self.put(path, b"clock")
        except StoreUnavailableError:
            if self._local is None:
                raise
            with _translated(self.uri):
                return _touched(self._local)  # a full disk is where collecting is wanted most
        stat = self.stat(path)
        self._forget(path)
        if stat is None:
            raise StoreUnavailableError(self.uri, "an object written just now cannot be found")
        return stat.modified

    def sweep(self, limit: datetime) -> int:
        """Delete probes and drafts that killed writers left before `limit`; how many there were.

        Drafts are files of a local folder, which no listing shows. (What a killed writer leaves in
        a bucket is an unfinished upload, which the bucket's own life-cycle rules take away.)
        """
        left = [stat.path for stat in self.under(PROBES) if stat.modified < limit]
        for path in left:
            self.delete(path)
        drafts = 0
        with _translated(self.uri):
            for file in self._local.rglob("*#*") if self._local else ():
                with suppress(FileNotFoundError):  # its writer may be finishing just now
                    if _DRAFT.search(file.name) and file.stat().st_mtime < limit.timestamp():
                        file.unlink()
                        drafts += 1
        return len(left) + drafts

    def check_put_if_absent(self) -> None:
        """Try whether the store refuses to overwrite when asked to.

        Raises:
            StoreUnsupportedError: it does not.
            StoreUnavailableError: it cannot be written at all.
        """
        path = f"{PROBES}/{uuid.uuid4()}"
        self.put_new(path, b"first")
        overwrote = self.put_new(path, b"second")
        kept = self.get(path, 1024)
        self._forget(path)
        if overwrote or kept != b"first":
            raise StoreUnsupportedError(self.uri, "it does not honour put-if-absent")

    def _forget(self, path: str) -> None:
        with suppress(StoreUnavailableError):  # a probe left behind disturbs nobody
            self.delete(path)


def _raw(uri: str, timeout_s: float) -> "ObjectStore":
    scheme, marked, rest = uri.partition("://")
    if not uri:
        raise ValueError("the address is empty")
    if not marked:
        return LocalStore(Path(uri).expanduser().absolute(), mkdir=True)
    if scheme == "memory":
        return _MEMORY.setdefault(rest.strip("/"), MemoryStore())
    if scheme == "file":
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise ValueError("write file:///absolute/path, or the path alone")
        return LocalStore(Path(url2pathname(parts.path)), mkdir=True)
    return from_url(
        uri,
        client_options={
            "allow_http": True,  # only an endpoint that says http:// is spoken to in the clear
            "connect_timeout": timedelta(seconds=min(timeout_s, _CONNECT_S)),
            "read_timeout": timedelta(seconds=timeout_s),
            "timeout": timedelta(seconds=max(timeout_s, _REQUEST_S)),
        },
        retry_config={
            "max_retries": 3,
            "retry_timeout": timedelta(seconds=2 * timeout_s),
            "backoff": {
                "init_backoff": timedelta(seconds=0.1),
                "max_backoff": timedelta(seconds=1),
                "base": 2,
            },
        },
    )


def _write_file(file: Path, data: bytes, name: Callable[[Path, Path], None]) -> None:
    """Write a file whole: its bytes are on the disk before `name` (link or replace) shows them.

    A power cut or a full disk would else leave a broken entry, and that would bar the log.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}#{uuid.uuid4().int}")  # obstore lists no #digits
    try:
        with draft.open("xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        name(draft, file)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _touched(folder: Path) -> datetime:
    """The time that a folder's file system gives it: asking takes no space."""
    os.utime(folder)
    return datetime.fromtimestamp(folder.stat().st_mtime, UTC)


_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError, NotImplementedError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        full = isinstance(error, OSError) and error.errno in _FULL
        kind = StoreFullError if full else StoreUnavailableError
        raise kind(uri, _said(reason or str(error))) from None


def _said(text: str) -> str:
    """One line of obstore's text: no dump of its insides, no query (which may hold a signature)."""
    line = " ".join(text.partition("\n\nDebug source")[0].split())
    return re.sub(r"\?[^\s<>]*", "?…", line)[:400]
