"""Residency: one load per digest, failures remembered, nothing evicted too early."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters_store import artifact
from adapters_store.adapter import Adapter
from adapters_store.errors import (
    ArtifactInvalidError,
    EffectFailedError,
    StoreUnavailableError,
    TaskMismatchError,
)
from serving.engine.engine import Engine
from serving.residency import Residency
from serving.telemetry import Telemetry


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
        return self.blobs[digest]


@pytest.fixture(scope="module")
def engine(tiny):
    return Engine(tiny)


@pytest.fixture(scope="module")
def artifacts(tiny, make_adapter):
    """Six small adapters of one task."""
    return [artifact.write(make_adapter(tiny, "lora", seed=i, rank=1, labels=2)) for i in range(6)]


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def residency(tiny, engine, shelf):
    made = Residency(tiny, engine, shelf, Telemetry(task_labels_max=10), slots=2, host_bytes=2**30)
    yield made
    made.check()
    made.close()


def test_many_who_ask_at_once_cause_one_fetch(residency, shelf, artifacts):
    digest = shelf.put(artifacts[0])
    shelf.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(lambda _: residency.get(digest), range(16)))
    shelf.gate.set()

    assert len({id(f.result(10)) for f in futures}) == 1
    assert shelf.fetched == [digest]


def test_bytes_that_fail_are_fetched_once_and_refused_ever_after(residency, shelf, artifacts):
    digest = shelf.put(artifacts[0][:-1])

    for _ in range(3):
        with pytest.raises(ArtifactInvalidError):
            residency.get(digest).result(10)

    assert shelf.fetched == [digest]
    assert residency.refused(digest)


def test_an_adapter_that_does_nothing_it_promised_is_refused(residency, shelf, tiny, make_adapter):
    good = make_adapter(tiny, "lora", rank=1, labels=2)
    other = {k: -v if "B_" in k else v for k, v in good.tensors.items()}
    digest = shelf.put(artifact.write(Adapter(manifest=good.manifest, tensors=other)))

    with pytest.raises(EffectFailedError, match="other logits"):
        residency.get(digest).result(10)
    assert residency.refused(digest)


def test_an_unreachable_store_is_not_a_verdict(residency, shelf, artifacts, monkeypatch):
    digest = shelf.put(artifacts[0])
    shelf.away = True
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            residency.get(digest).result(10)
    assert len(shelf.fetched) == 1, "it backs off"
    assert not residency.refused(digest)

    shelf.away = False
    monkeypatch.setattr("serving.residency._BACK_OFF_S", 0.0)
    residency._retry_at.clear()

    assert residency.get(digest).result(10).manifest.task == "digits"


def test_published_bytes_are_kept_without_a_fetch(residency, shelf, artifacts):
    digest = artifact.digest(artifacts[0])

    residency.install(digest, artifacts[0], "digits")

    residency.get(digest).result(0)
    assert shelf.fetched == []


def test_published_bytes_of_another_task_are_refused_every_time(residency, artifacts):
    for _ in range(2):
        with pytest.raises(TaskMismatchError):
            residency.install(artifact.digest(artifacts[0]), artifacts[0], "flowers")


def test_refused_bytes_of_a_publish_leave_no_trace(residency):
    for _ in range(2):
        with pytest.raises(ArtifactInvalidError):
            residency.install("0" * 64, b"nonsense", "digits")
    assert not residency.refused("0" * 64)


def test_host_memory_keeps_its_budget(tiny, engine, shelf, artifacts):
    digests = [shelf.put(a) for a in artifacts]
    one = engine.prepare(artifact.read(artifacts[0])).nbytes
    small = Residency(
        tiny, engine, shelf, Telemetry(task_labels_max=10), slots=2, host_bytes=3 * one
    )
    for digest in digests:
        small.get(digest).result(10)
        small.check()

    assert small.known() == 3
    small.get(digests[0]).result(10)
    assert shelf.fetched.count(digests[0]) == 2
    small.close()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=2), max_size=12))
def test_any_history_of_batches_keeps_the_books(residency, shelf, artifacts, engine, batches):
    digests = [shelf.put(a) for a in artifacts] + [shelf.put(b"bad")]
    for picks in batches:
        wanted = [digests[i] for i in picks]
        placed = residency.slot(wanted)
        for digest in wanted:
            assert isinstance(placed[digest], ArtifactInvalidError) == (digest == digests[6])
        residency.check()
        residency.release([d for d in placed if d != digests[6]])
        residency.check()
    assert len(residency.resident()) <= 2


def test_a_slot_holds_what_was_loaded(residency, shelf, artifacts, engine):
    digests = [shelf.put(a) for a in artifacts[:2]]
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    alone = [engine.prepare(artifact.read(a)) for a in artifacts[:2]]
    wanted = engine.run(pictures, alone)

    placed = residency.slot(digests)
    got = engine.run(pictures, [placed[d] for d in digests])
    residency.release(digests)

    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_who_gives_up_does_not_end_a_load_that_others_wait_for(residency, shelf, artifacts):
    digest = shelf.put(artifacts[0])
    shelf.gate.clear()
    first, second = residency.get(digest), residency.get(digest)
    assert not first.cancel()
    shelf.gate.set()

    assert second.result(10).manifest.task == "digits"


def test_damaged_bytes_are_served_again_once_they_are_whole(residency, shelf, artifacts):
    digest = shelf.put(artifacts[0])
    shelf.blobs[digest] = artifacts[0][:-1]
    with pytest.raises(ArtifactInvalidError):
        residency.get(digest).result(10)
    assert residency.refused(digest)

    residency.install(digest, artifacts[0], "digits")

    assert not residency.refused(digest)
    assert residency.get(digest).result(0).manifest.task == "digits"


def test_any_trouble_with_one_adapter_stays_its_own(residency, shelf, artifacts, monkeypatch):
    good, bad = shelf.put(artifacts[0]), shelf.put(artifacts[1])
    residency.get(bad).result(10)
    real = residency._place

    def place(digest):
        if digest == bad:
            raise MemoryError
        return real(digest)

    monkeypatch.setattr(residency, "_place", place)
    placed = residency.slot([good, bad])

    assert isinstance(placed[bad], MemoryError)
    residency.release([good])
