"""What nobody asked for yet: brought in, checked in quiet moments, let go when forgotten."""

import threading

import pytest

from adapters_store import artifact
from adapters_store.adapter import Adapter
from tests.shelves import in_host_memory, unproven, until


def test_prefetching_ends_where_memory_does_and_pushes_nobody_out(
    residency_of, shelf, artifacts, one, never_quiet
):
    small = residency_of(host_bytes=3 * one)
    asked = shelf.put(artifacts[5])
    small.get(asked).result(10)
    others = [shelf.put(a) for a in artifacts[:5]]

    small.prefetch(others)
    until(lambda: not small._host._books._wished and len(in_host_memory(small)) == 3)

    assert len(in_host_memory(small)) == 3
    assert asked in in_host_memory(small)
    assert len(shelf.fetched) < 6, "what cannot be kept is not fetched"


def test_what_is_asked_for_is_loaded_before_what_is_only_prefetched(
    residency, shelf, artifacts, never_quiet
):
    digests = [shelf.put(a) for a in artifacts]
    shelf.gate.clear()
    residency.prefetch(digests)
    future = residency.get(digests[-1])
    shelf.gate.set()
    future.result(10)

    assert digests[-1] in shelf.fetched[:3], "two were on their way already"
    until(lambda: len(in_host_memory(residency)) == 6)
    assert len(shelf.fetched) == 6


def test_what_is_prefetched_answers_only_after_its_check(residency, shelf, artifacts, never_quiet):
    digest = shelf.put(artifacts[0])
    residency.prefetch([digest])
    until(lambda: unproven(residency) == {digest})
    assert isinstance(residency.slot([digest])[digest], LookupError)
    residency.release([])

    facts = residency.get(digest).result(10)

    assert unproven(residency) == set()
    assert residency.slot([digest])[digest].row is facts.prepared.row
    residency.release([digest])
    assert shelf.fetched == [digest]


def test_what_was_prefetched_is_checked_when_nothing_else_is_to_do(
    residency, shelf, artifacts, tiny, make_adapter
):
    good = make_adapter(tiny, "lora", rank=1, labels=2, seed=9)
    other = {k: -v if "B_" in k else v for k, v in good.tensors.items()}
    idle = shelf.put(artifact.write(Adapter(manifest=good.manifest, tensors=other)))
    digests = {shelf.put(a) for a in artifacts}

    residency.prefetch([*digests, idle])
    until(lambda: residency.refused(idle) and not unproven(residency))

    assert in_host_memory(residency) == digests
    assert residency.refusals() == {idle}


def test_a_check_that_somebody_waits_for_does_not_wait_for_a_quiet_moment(
    residency, shelf, artifacts
):
    digest = shelf.put(artifacts[0])
    residency.slot([])  # a batch runs, and does not end
    residency.prefetch([digest])
    until(lambda: digest in unproven(residency) and digest in residency._host._loading)

    assert residency.get(digest).result(10).task == "digits"
    residency.release([])


def test_a_release_that_is_forgotten_while_it_loads_does_not_stay(residency, shelf, artifacts):
    digest = shelf.put(artifacts[0])
    shelf.gate.clear()
    future = residency.get(digest)
    residency.forget([digest])
    shelf.gate.set()

    assert future.result(10).task == "digits", "whoever asked still gets it"
    assert residency.known() == 0


def test_a_release_that_is_wanted_again_while_it_loads_stays(residency, shelf, artifacts):
    digest = shelf.put(artifacts[0])
    shelf.gate.clear()
    residency.get(digest)
    residency.forget([digest])
    future = residency.get(digest)
    shelf.gate.set()

    future.result(10)
    assert in_host_memory(residency) == {digest}
    assert shelf.fetched == [digest]


def test_a_release_that_is_pointed_at_again_while_it_loads_stays(residency, shelf, artifacts):
    """A rollback, or an alias: nobody asks for it, but somebody soon may."""
    digest = shelf.put(artifacts[0])
    shelf.gate.clear()
    future = residency.get(digest)
    residency.forget([digest])
    residency.prefetch([digest])
    shelf.gate.set()

    future.result(10)
    assert in_host_memory(residency) == {digest}
    assert shelf.fetched == [digest]


def test_a_release_that_is_pointed_at_again_while_it_is_checked_unasked_stays(
    residency, shelf, artifacts, monkeypatch
):
    digest = shelf.put(artifacts[0])
    loader, begun = residency._host._loader, threading.Event()
    real = loader.prove
    monkeypatch.setattr(loader, "prove", lambda *how: (begun.set(), real(*how)))
    residency.slot([])  # a batch runs: the check waits for its end
    residency.prefetch([digest])
    assert begun.wait(10)
    residency.forget([digest])
    assert residency.known() == 0
    residency.prefetch([digest])
    residency.release([])

    until(lambda: digest not in residency._host._loading)
    assert in_host_memory(residency) == {digest}
    assert unproven(residency) == set()
    assert shelf.fetched == [digest]


@pytest.mark.parametrize("surprise", [RuntimeError, MemoryError])
def test_a_check_that_breaks_is_told_and_not_repeated_until_somebody_asks(
    residency, shelf, artifacts, monkeypatch, caplog, surprise
):
    digest, other = shelf.put(artifacts[0]), shelf.put(artifacts[1])
    loader = residency._host._loader
    real, tried = loader.prove, []

    def prove(facts, promise, pause=None):
        tried.append(facts.digest)
        if facts.digest == digest:
            raise surprise
        real(facts, promise, pause)

    with monkeypatch.context() as patch:
        patch.setattr(loader, "prove", prove)
        residency.prefetch([digest, other])
        until(lambda: len(shelf.fetched) == 2 and not unproven(residency))
        until(lambda: not residency._host._loading)
    assert sorted(tried) == sorted([digest, other]), "once each"
    assert in_host_memory(residency) == {other}
    assert not residency.refused(digest)
    told = [r for r in caplog.records if r.message == "adapter not loaded"]
    assert [(r.digest, r.exc_info[0]) for r in told] == [(digest, surprise)]

    assert residency.get(digest).result(10).task == "digits"
    assert in_host_memory(residency) == {digest, other}


def test_what_breaks_while_it_is_brought_in_is_told(residency, shelf, artifacts, caplog):
    digest = shelf.put(artifacts[0])
    shelf.blobs[digest] = None  # nothing that anybody foresaw
    residency.prefetch([digest])
    until(lambda: not residency._host._books._wished and not residency._host._loading)

    told = [r for r in caplog.records if r.message == "adapter not loaded"]
    assert [r.digest for r in told] == [digest]
    assert told[0].exc_info[0] is not None
    assert not residency.refused(digest)
    shelf.blobs[digest] = artifacts[0]
    assert residency.get(digest).result(10).task == "digits"
