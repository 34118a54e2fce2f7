"""Residency under any history: what may answer, what may leave, and that the books hold."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters_store import artifact
from adapters_store.adapter import Adapter
from adapters_store.errors import AdapterError, StoreError, StoreUnavailableError
from serving.engine.engine import Engine
from serving.errors import QuarantinedError
from serving.residency import Residency
from serving.telemetry import Telemetry

GOOD, BAD = 6, 2  # artifacts
ANY = st.integers(0, GOOD + BAD)  # the last is in no store


class Shelves:
    """A store that notices two fetches of one digest at once."""

    def __init__(self, blobs):
        self.blobs, self.away = blobs, False
        self.under_way, self.doubled = set(), False
        self.lock = threading.Lock()

    def __call__(self, digest):
        with self.lock:
            self.doubled |= digest in self.under_way
            self.under_way.add(digest)
        try:
            if self.away or digest not in self.blobs:
                raise StoreUnavailableError("memory://", "out of reach")
            return self.blobs[digest]
        finally:
            with self.lock:
                self.under_way.discard(digest)


class History:
    """Requests, batches, publishes, forgetting, prefetching; a store that comes and goes."""

    backbone: object
    engine: Engine
    artifacts: list[bytes]  # the good ones first

    def __init__(self, entries, slot_entries):
        self.digests = [*(artifact.digest(a) for a in self.artifacts), "0" * 64]
        self.good = set(self.digests[:GOOD])
        self.withdrawn = {}  # errors of what answered wrongly, by digest
        self.shelves = Shelves(dict(zip(self.digests, self.artifacts, strict=False)))
        self.held = {}  # what requests hold, by digest
        self.batches = []  # what runs: the digests that got a slot
        one = self.engine.prepare(artifact.read(self.artifacts[0])).nbytes
        self.residency = Residency(
            self.backbone,
            self.engine,
            self.shelves,
            Telemetry(task_labels_max=10),
            slots=4,
            host_bytes=entries * one,
            slot_bytes=slot_entries * one,
        )

    def requests(self, picks):
        """Several at once, some for the same."""
        before = self.good & set(self.residency._host._books.host)
        wanted = [self.digests[i] for i in picks]
        with ThreadPoolExecutor(len(wanted)) as pool:
            futures = list(pool.map(self.residency.get, wanted))
        wait(futures, 10)
        for digest, future in zip(wanted, futures, strict=True):
            error = future.exception(0)
            if error is None:
                assert digest in self.good
                assert future.result().digest == digest
                self.held[digest] = future.result()
            elif digest in self.good:
                assert isinstance(error, StoreError)
            else:
                assert isinstance(error, AdapterError | StoreError)
        if not self.good & set(wanted):
            assert before <= set(self.residency._host._books.host), "bad ones push nobody out"

    def expectation(self, picks):
        wait([self.residency.expect(self.digests[i]) for i in picks], 10)

    def prefetching(self, picks):
        self.residency.prefetch(self.digests[i] for i in picks)

    def publish(self, picks):
        pick = picks[0] % len(self.artifacts)
        digest, data = self.digests[pick], self.artifacts[pick]
        try:
            facts = self.residency.install(digest, data, "digits")
        except AdapterError:
            assert digest not in self.good
        else:
            self.held[digest] = facts

    def batch(self, picks):
        if self.batches:
            return
        wanted = [d for i in picks if (d := self.digests[i]) in self.held]
        self.shelves.away, away = True, self.shelves.away  # no store is needed
        placed = self.residency.slot(wanted)
        self.shelves.away = away
        assert set(placed) == set(wanted)
        for digest, prepared in placed.items():
            if digest in self.withdrawn:  # held or not
                assert prepared is self.withdrawn[digest]
                continue
            assert not isinstance(prepared, Exception)
            facts = self.held[digest].prepared
            assert prepared.checksum() == facts.checksum()
        self.batches.append([d for d in placed if d not in self.withdrawn])

    def batch_ends(self, picks=()):
        if not self.batches:
            return
        pinned = set(self.batches[0])
        assert pinned <= set(self.residency.resident()), "even what was quarantined since"
        self.residency.release(self.batches.pop(0))
        assert self.withdrawn.keys().isdisjoint(self.residency.resident())

    def request_ends(self, picks):
        for i in picks:
            self.held.pop(self.digests[i], None)

    def forget(self, picks):
        self.residency.forget(self.digests[i] for i in picks)

    def quarantine(self, picks):
        digest = self.digests[picks[0]]
        if digest in self.good:
            self.good.discard(digest)
            self.withdrawn[digest] = QuarantinedError("digits", 1, ("other logits",))
            self.residency.quarantine(digest, self.withdrawn[digest])

    def store_goes(self, picks):
        self.shelves.away = True

    def store_comes(self, picks):
        self.shelves.away = False
        self.residency._host._books._put_off.clear()  # time passes

    def check(self):
        self.residency.check()
        assert not self.shelves.doubled
        assert self.residency.refusals().isdisjoint(self.good)
        assert self.withdrawn.keys() <= self.residency.refusals()

    def end(self):
        self.batch_ends()
        self.residency.close()
        self.residency.check()


STEPS = (
    History.requests, History.requests, History.batch, History.batch_ends, History.request_ends,
    History.prefetching, History.expectation, History.publish, History.forget, History.quarantine,
    History.store_goes, History.store_comes,
)  # fmt: skip
# Drawn before anything runs: threads race, and what is drawn must not hang on who was faster.
HISTORIES = st.lists(
    st.tuples(st.sampled_from(STEPS), st.lists(ANY, min_size=1, max_size=4)), max_size=40
)


@pytest.mark.parametrize("calm_s", [0.0, pytest.param(3600.0, marks=pytest.mark.slow)])
def test_any_history_of_requests_batches_and_publishes_keeps_the_books(
    tiny, make_adapter, monkeypatch, calm_s
):
    """With checks that nobody asked for, and without."""
    monkeypatch.setattr("serving.host_memory._CALM_S", calm_s)
    monkeypatch.setattr("serving.host_memory._BACK_OFF_S", 0.01)
    made = [make_adapter(tiny, "lora", seed=i, rank=1, labels=2) for i in range(GOOD + 1)]
    other = {k: -v if "B_" in k else v for k, v in made[-1].tensors.items()}
    idle = Adapter(manifest=made[-1].manifest, tensors=other)
    History.backbone, History.engine = tiny, Engine(tiny)
    good = [artifact.write(a) for a in made[:GOOD]]
    History.artifacts = [*good, artifact.write(idle), good[0][:-1]]

    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(entries=st.integers(1, 5), slot_entries=st.integers(1, 5), steps=HISTORIES)
    def run(entries, slot_entries, steps):
        history = History(entries, slot_entries)
        try:
            for step, picks in steps:
                step(history, picks)
                history.check()
        finally:
            history.end()

    run()
