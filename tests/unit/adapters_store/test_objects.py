"""Objects: addresses, failures and the self-test."""

import socket
import time

import pytest

from adapters_store.catalog import Catalog
from adapters_store.errors import (
    StoreUnavailableError,
    StoreUnsupportedError,
)
from adapters_store.objects import Objects
from adapters_store.store import AdapterStore

BACKBONE = "0123456789abcdef" * 4
FOLDER = BACKBONE[:16]


def opened(uri: str, kind: type[Objects] = Objects) -> AdapterStore:
    return AdapterStore(kind.open(uri, FOLDER))


class Careless(Objects):
    """Overwrites although it was asked not to."""

    def put_new(self, path: str, data: bytes) -> bool:
        self.put(path, data)
        return True


def test_a_store_without_put_if_absent_is_never_written(memory):
    """The self-test finds out before the first blob, leaves nothing behind, and reading works."""
    store = opened(memory, Careless)

    with pytest.raises(StoreUnsupportedError, match="put-if-absent"):
        store.publish(b"one", "flowers", by="ann")
    with pytest.raises(StoreUnsupportedError):
        store.retire("flowers", by="ann")
    assert store.catalog() == Catalog()
    assert Objects.open(memory).folders() == ()


@pytest.mark.parametrize("address", ["", "bogus://x", "s3:///x", "file://a/b", "/proc/none/x"])
def test_an_address_that_means_nothing_is_refused(address):
    """The error is one line, without the insides of a library."""
    with pytest.raises(StoreUnavailableError) as caught:
        AdapterStore.open(address, BACKBONE)

    assert "\n" not in str(caught.value)
    assert "Debug" not in str(caught.value)


def test_a_bucket_that_does_not_exist_is_not_an_empty_store(bucket):
    """A misspelt bucket is an error for readers and writers."""
    store = AdapterStore.open(f"{bucket}-misspelt", BACKBONE)

    for call in (store.catalog, store.check_writable, store.verify):
        with pytest.raises(StoreUnavailableError, match="NoSuchBucket") as caught:
            call()
        assert "Debug" not in str(caught.value)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("answer", ["refusal", "silence"])
def test_a_dead_endpoint_fails_soon(answer, monkeypatch):
    """Refused connections and silence both end in an error, after few times the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = 1 if answer == "refusal" else silent.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        store = AdapterStore.open("s3://releases", BACKBONE, timeout_s=0.1)
        start = time.perf_counter()

        with pytest.raises(StoreUnavailableError):
            store.catalog()
        with pytest.raises(StoreUnavailableError):
            store.publish(b"", "flowers", by="ann")

        assert time.perf_counter() - start < 5
