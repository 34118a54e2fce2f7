"""What an engine replica says of itself, and how it computes what a door sends."""

import asyncio
import threading

import numpy as np
import pytest

from adapters_store import artifact
from adapters_store.errors import StoreError
from adapters_store.pixels import pixels
from serving.engine_room import EngineRoom, _fitting
from serving.errors import ColdError
from serving.types import Answer, Route, Sample


@pytest.fixture
def room(settings_of, publish, png):
    """An engine with two tasks."""
    publish("digits", "alore")
    publish("flowers", "linear", seed=1)
    made = EngineRoom(settings_of(slots=8), "engine-1")
    yield made
    made.close()
    made.residency.check()


def samples(tiny, png, *digests):
    """Of one picture."""
    picture = pixels(png, tiny.spec.preprocess())
    return [
        Sample(route=Route(task="t", release=1, digest=d), pixels=picture, budget_s=30.0)
        for d in digests
    ]


def test_what_has_to_be_loaded_first_holds_up_none_of_its_group(
    room, tiny, store, png, monkeypatch
):
    for state in store.catalog().tasks.values():
        asyncio.run(room.card(state.releases[0].digest))
    gate, loader = threading.Event(), room.residency._host._loader
    monkeypatch.setattr(loader, "_fetch", lambda digest: gate.wait(10) and b"")
    active = {n: s.releases[0].digest for n, s in store.catalog().tasks.items()}
    known, other = active["digits"], active["flowers"]

    group = samples(tiny, png, known, "f" * 64, other, known)
    one, cold, another, again = asyncio.run(room.compute(group, patient=True))
    gate.set()

    assert isinstance(one, Answer)
    assert isinstance(another, Answer)
    np.testing.assert_allclose(one.logits, again.logits, rtol=1e-4, atol=1e-5)
    assert isinstance(cold, ColdError), "it is being fetched"


def test_a_patient_group_that_has_to_be_loaded_whole_waits_for_it(
    room, tiny, png, publish, monkeypatch
):
    gate, loader = threading.Event(), room.residency._host._loader
    fetch = loader._fetch
    monkeypatch.setattr(loader, "_fetch", lambda d: gate.wait(30) and fetch(d))
    digests = [artifact.digest(publish("birds", "linear", seed=seed)) for seed in (3, 4)]

    async def ask():
        asked = asyncio.create_task(room.compute(samples(tiny, png, *digests), patient=True))
        await asyncio.sleep(0)  # it has seen that nothing is there
        gate.set()
        return await asked

    assert [type(answer) for answer in asyncio.run(ask())] == [Answer, Answer]


def test_a_group_that_may_not_wait_is_back_at_once_and_its_loads_have_begun(
    room, tiny, png, publish, monkeypatch
):
    """The door has few places for groups: a load must not hold one."""
    digest = artifact.digest(publish("birds", "linear", seed=5))
    gate, loader = threading.Event(), room.residency._host._loader
    fetch = loader._fetch
    monkeypatch.setattr(loader, "_fetch", lambda d: gate.wait(30) and fetch(d))
    group = samples(tiny, png, digest)

    (cold,) = asyncio.run(room.compute(group, patient=False))
    gate.set()
    (answer,) = asyncio.run(room.compute(group, patient=True))

    assert isinstance(cold, ColdError)
    assert isinstance(answer, Answer)


def test_a_part_that_fails_takes_no_answer_of_another_part_along(room, tiny, png, monkeypatch):
    def run(part):
        if part[0].route.digest == "8":
            raise MemoryError("of the device")
        return [sample.route.digest for sample in part]

    monkeypatch.setattr(room, "_run", run)

    answers = room._execute(samples(tiny, png, *"0123456789"))

    assert answers[:8] == list("01234567")
    assert [type(answer) for answer in answers[8:]] == [MemoryError, MemoryError]


def test_a_second_look_that_goes_wrong_costs_no_answer(room, tiny, store, png, monkeypatch):
    def offer(answered):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(room.second, "offer", offer)
    digest = store.catalog().task("digits").releases[0].digest

    (answer,) = asyncio.run(room.compute(samples(tiny, png, digest), patient=True))

    assert isinstance(answer, Answer)


def test_what_cannot_be_had_is_its_own_samples_error(room, tiny, png):
    (missing,) = asyncio.run(room.compute(samples(tiny, png, "f" * 64), patient=True))

    assert isinstance(missing, StoreError)


def test_a_door_is_told_what_it_must_know_of_an_adapter(room, store, publish):
    card = asyncio.run(room.card(store.catalog().task("flowers").releases[0].digest))

    assert (card.task, card.method, card.head_only) == ("flowers", "linear", True)
    assert card.labels[0] == "label 0"
    assert not asyncio.run(room.card(store.catalog().task("digits").releases[0].digest)).head_only
    other = publish("digits", "lora", seed=7)
    assert room.install(artifact.digest(other), other, "digits").method == "lora"


def test_a_batch_of_more_releases_than_slots_is_computed_in_parts():
    samples = [
        Sample(route=Route(task="t", release=1, digest=d), pixels=None, budget_s=1.0)
        for d in "aabbcadde"
    ]

    parts = [[s.route.digest for s in part] for part in _fitting(samples, 2)]

    assert parts == [list("aabb"), list("ca"), list("dde")]
