"""Residency: one load per digest, failures remembered, nothing evicted too early."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from adapters_store import artifact
from adapters_store.adapter import Adapter
from adapters_store.errors import (
    ArtifactInvalidError,
    EffectFailedError,
    StoreUnavailableError,
    TaskMismatchError,
)
from serving.errors import ClosingError
from tests.shelves import in_host_memory


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


def test_an_unreachable_store_is_not_a_verdict(residency, shelf, artifacts):
    digest = shelf.put(artifacts[0])
    shelf.away = True
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            residency.get(digest).result(10)
    assert len(shelf.fetched) == 1, "it backs off"
    assert not residency.refused(digest)

    shelf.away = False
    residency._host._books._put_off.clear()  # the time is over

    assert residency.get(digest).result(10).task == "digits"


def test_published_bytes_are_kept_without_a_fetch(residency, shelf, artifacts):
    digest = artifact.digest(artifacts[0])

    residency.install(digest, artifacts[0], "digits")

    residency.get(digest).result(0)
    assert shelf.fetched == []


def test_published_bytes_do_not_depend_on_a_store_that_is_just_being_asked(
    residency, shelf, artifacts
):
    digest = shelf.put(artifacts[0])
    shelf.away = True
    shelf.gate.clear()
    asked = residency.get(digest)
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(residency.install, digest, artifacts[0], "digits")
        shelf.gate.set()

    assert published.result(10).task == "digits"
    assert asked.done()


def test_published_bytes_of_another_task_are_refused_every_time(residency, artifacts):
    for _ in range(2):
        with pytest.raises(TaskMismatchError):
            residency.install(artifact.digest(artifacts[0]), artifacts[0], "flowers")


def test_refused_bytes_of_a_publish_leave_no_trace(residency):
    for _ in range(2):
        with pytest.raises(ArtifactInvalidError):
            residency.install("0" * 64, b"nonsense", "digits")
    assert not residency.refused("0" * 64)


def test_host_memory_keeps_its_budget(residency_of, shelf, artifacts, one):
    digests = [shelf.put(a) for a in artifacts]
    small = residency_of(host_bytes=3 * one)
    for digest in digests:
        small.get(digest).result(10)
        small.check()

    assert in_host_memory(small) == set(digests[3:])
    small.get(digests[0]).result(10)
    assert shelf.fetched.count(digests[0]) == 2


def test_what_is_heavier_than_host_memory_answers_and_pushes_nobody_out(
    residency_of, shelf, artifacts, tiny, make_adapter, one
):
    small = residency_of(host_bytes=2 * one)
    known = shelf.put(artifacts[0])
    small.get(known).result(10)
    heavy = shelf.put(artifact.write(make_adapter(tiny, "lora", rank=16, labels=2)))

    facts = small.get(heavy).result(10)
    placed = small.slot([heavy])
    small.check()
    small.release([heavy])

    assert placed[heavy].row is facts.prepared.row
    assert in_host_memory(small) == {known}


@pytest.mark.parametrize("trouble", ["damaged", "unknown", "idle"])
def test_a_failing_adapter_pushes_nobody_out(
    residency_of, shelf, artifacts, tiny, make_adapter, one, trouble
):
    small = residency_of(host_bytes=2 * one)
    good = [shelf.put(a) for a in artifacts[:2]]
    for digest in good:
        small.get(digest).result(10)
    held = make_adapter(tiny, "lora", rank=1, labels=2, seed=9)
    other = {k: -v if "B_" in k else v for k, v in held.tensors.items()}
    idle = artifact.write(Adapter(manifest=held.manifest, tensors=other))
    bad = {"damaged": shelf.put(artifacts[2][:-1]), "unknown": "0" * 64, "idle": shelf.put(idle)}

    with pytest.raises((ArtifactInvalidError, EffectFailedError, StoreUnavailableError)):
        small.get(bad[trouble]).result(10)

    assert in_host_memory(small) == set(good)


def test_a_batch_waits_for_no_store_though_its_adapter_left_host_memory(
    residency_of, shelf, artifacts, one
):
    small = residency_of(host_bytes=one)
    first, second = (shelf.put(a) for a in artifacts[:2])
    facts = small.get(first).result(10)  # a request holds it
    small.get(second).result(10)
    assert in_host_memory(small) == {second}
    shelf.gate.clear()  # whoever asks the store would now hang

    placed = small.slot([first])

    assert placed[first].row is facts.prepared.row
    small.release([first])
    assert small.get(first).result(0) is facts, "and it comes back without a fetch"
    shelf.gate.set()


def test_what_nobody_holds_gets_no_slot_and_stops_no_neighbour(residency, shelf, artifacts):
    absent, present = shelf.put(artifacts[0]), shelf.put(artifacts[1])
    facts = residency.get(present).result(10)

    placed = residency.slot([absent, present])

    assert isinstance(placed[absent], LookupError)
    assert placed[present].row is facts.prepared.row
    residency.release([present])
    assert shelf.fetched == [present]


def test_an_adapter_that_passed_once_is_not_checked_again(
    residency_of, shelf, artifacts, one, monkeypatch
):
    small = residency_of(host_bytes=one)
    digests = [shelf.put(a) for a in artifacts[:2]]
    for digest in digests:
        small.get(digest).result(10)

    def prove(*_):
        raise AssertionError

    monkeypatch.setattr(small._host._loader, "prove", prove)

    assert small.get(digests[0]).result(10).task == "digits"
    assert shelf.fetched == [*digests, digests[0]]


def test_what_is_forgotten_leaves_its_slot_unless_a_batch_runs(residency, shelf, artifacts):
    digests = [shelf.put(a) for a in artifacts[:2]]
    held = [residency.get(d).result(10) for d in digests]
    for digest in digests:
        residency.slot([digest])
    residency.release(digests[:1])

    residency.forget(digests)

    assert residency.resident() == (held[1].digest,)
    residency.check()
    residency.release(digests[1:])
    assert residency.resident() == (), "and then once it has run"


def test_what_is_forgotten_leaves_its_slot_after_the_last_of_its_batches(
    residency, shelf, artifacts
):
    digest = shelf.put(artifacts[0])
    held = residency.get(digest).result(10)
    residency.slot([digest])
    residency.forget([digest])
    residency.slot([digest])

    residency.release([digest])
    assert residency.resident() == (held.digest,)
    residency.check()
    residency.release([digest])

    assert residency.resident() == ()
    residency.slot([digest])
    residency.release([digest])
    assert residency.resident() == (digest,), "one that comes back is not doomed"


def test_slots_keep_their_budget_of_bytes_once_their_batch_has_run(
    residency_of, shelf, artifacts, one
):
    small = residency_of(slots=6, slot_bytes=2 * one)
    digests = [shelf.put(a) for a in artifacts]
    held = [small.get(d).result(10) for d in digests]

    placed = small.slot(digests)
    assert all(placed[f.digest].row is f.prepared.row for f in held), "one batch may take more"
    small.check()
    small.release(digests)

    assert small.resident() == tuple(digests[-2:])


def test_a_load_that_is_not_begun_when_the_server_stops_ends_for_those_who_wait(
    residency_of, shelf, artifacts
):
    closing = residency_of()
    closing.close()

    with pytest.raises(ClosingError):
        closing.get(shelf.put(artifacts[0])).result(10)


def test_a_slot_holds_what_was_loaded(residency, shelf, artifacts, engine):
    digests = [shelf.put(a) for a in artifacts[:2]]
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    alone = [engine.prepare(artifact.read(a)) for a in artifacts[:2]]
    wanted = engine.run(pictures, alone)
    held = [residency.get(d).result(10) for d in digests]

    placed = residency.slot(digests)
    got = engine.run(pictures, [placed[d] for d in digests])
    residency.release(digests)
    assert len(held) == 2

    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_who_gives_up_does_not_end_a_load_that_others_wait_for(residency, shelf, artifacts):
    digest = shelf.put(artifacts[0])
    shelf.gate.clear()
    first, second = residency.get(digest), residency.get(digest)
    assert not first.cancel()
    shelf.gate.set()

    assert second.result(10).task == "digits"


def test_damaged_bytes_are_served_again_once_they_are_whole(residency, shelf, artifacts):
    digest = shelf.put(artifacts[0])
    shelf.blobs[digest] = artifacts[0][:-1]
    with pytest.raises(ArtifactInvalidError):
        residency.get(digest).result(10)
    assert residency.refused(digest)

    residency.install(digest, artifacts[0], "digits")

    assert not residency.refused(digest)
    assert residency.get(digest).result(0).task == "digits"


def test_any_trouble_with_one_adapter_stays_its_own(residency, shelf, artifacts, monkeypatch):
    good, bad = shelf.put(artifacts[0]), shelf.put(artifacts[1])
    held = [residency.get(d).result(10) for d in (good, bad)]
    real = residency._place

    def place(digest):
        if digest == bad:
            raise MemoryError
        return real(digest)

    monkeypatch.setattr(residency, "_place", place)
    placed = residency.slot([good, bad])

    assert isinstance(placed[bad], MemoryError)
    assert placed[good].row is held[0].prepared.row
    residency.release([good])


def test_a_replica_that_can_keep_nothing_still_answers_everything(replica_of, publish, http, png):
    """Every request holds what it got until its batch has run."""
    for i in range(4):
        publish(f"task-{i}", seed=i)
    replica = replica_of(host_bytes=1)
    client = http(replica)

    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(
                lambda i: client.post(f"/v1/tasks/task-{i % 4}:predict", content=png), range(12)
            )
        )

    assert [a.status_code for a in answers] == [200] * 12
    assert replica.residency.known() == 0
    replica.residency.check()


def test_what_was_forgotten_and_is_asked_for_again_is_kept_though_somebody_still_holds_it(
    residency, shelf, artifacts
):
    digest = shelf.put(artifacts[0])
    held = residency.get(digest).result(10)
    residency.forget([digest])
    assert residency.known() == 0

    again = residency.expect(digest).result(10)

    assert again is held
    assert residency.known() == 1, "it would be gone with its last holder"
    residency.check()
