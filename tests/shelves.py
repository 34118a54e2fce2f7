"""What tests of residency fetch from, and what they look at inside."""

import threading
import time

from adapters_store import artifact
from adapters_store.errors import StoreUnavailableError


def until(condition, timeout_s=10.0):
    """Wait for a condition; fails the test when it never comes."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


class Shelf:
    """Artifacts by digest; counts how often each is fetched, and can be out of reach."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.away = False
        self.gate = threading.Event()
        self.gate.set()

    def put(self, data: bytes) -> str:
        digest = artifact.digest(data)
        self.blobs[digest] = data
        return digest

    def __call__(self, digest: str) -> bytes:
        assert self.gate.wait(10)
        self.fetched.append(digest)
        if self.away:
            raise StoreUnavailableError("memory://", "out of reach")
        if digest not in self.blobs:
            raise StoreUnavailableError("memory://", "it is missing")
        return self.blobs[digest]


def in_host_memory(residency) -> set[str]:
    return set(residency._host._books.host)


def unproven(residency) -> set[str]:
    return set(residency._host._books.unproven)
