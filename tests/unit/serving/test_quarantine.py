"""A release that answers wrongly is found out, served no longer, and stood in for."""

import asyncio
from concurrent.futures import wait
from functools import partial

import numpy as np
import pytest
import torch

from adapters_store import artifact
from adapters_store.errors import AdapterError, EffectFailedError
from serving.engine.engine import Engine
from serving.engine_room import EngineRoom
from serving.errors import QuarantinedError
from serving.gain import Gain
from tests import shelves
from tests.unit.serving.test_split import IMAGE, clients

until = partial(shelves.until, timeout_s=60.0)


@pytest.fixture(autouse=True)
def _without_rest(monkeypatch):
    monkeypatch.setattr("serving.second_look._CORE_SHARE", 1.0)


def flip(tensor) -> None:
    """As memory does that has gone bad: many numbers are others."""
    numbers = tensor.view(torch.uint8) if tensor.dtype == torch.uint8 else tensor
    with torch.no_grad():
        numbers.copy_(numbers.flip(0) if tensor.dtype == torch.uint8 else -3 * numbers)


def in_slot(room, digest):
    """What the mixed lane computes with."""
    return room.residency._placing._placed[digest][1]


def flip_head(room, digest):
    flip(in_slot(room, digest).weight)


def flip_row(room, digest):
    """The last numbers of a packed row: factors, and not what tells where they are."""
    row = in_slot(room, digest).row
    flip(row if row.dtype != torch.uint8 else row[-256:].view(torch.float32))


def flip_bank(room, digest):
    at = in_slot(room, digest).at
    flip(at.bank.rows[at.index])


def metric(room, name, **labels):
    return sum(
        sample.value
        for family in room.telemetry.snapshot()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def room_of(replica) -> EngineRoom:
    """The engine room of a fused replica."""
    return replica.engines._room


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip_head, flip_row, flip_bank])
def test_a_damaged_copy_is_found_out_and_the_release_before_answers(
    replica_of, publish, http, png, monkeypatch, damage
):
    if damage is flip_bank:
        monkeypatch.setattr("serving.engine_room.Engine", partial(Engine, banked=True))
    first = publish("digits")
    publish("flowers", "linear", seed=1)
    replica = replica_of(second_look_share=1.0)
    client, room = http(replica), room_of(replica)
    ask = partial(client.post, content=png, headers=IMAGE)
    assert ask("/v1/tasks/digits:predict").json()["release"] == 1
    second = publish("digits", seed=2)
    until(lambda: replica.generation == 3)
    before = ask("/v1/tasks/digits:predict").json()
    assert before["release"] == 2
    ask("/v1/tasks/flowers:predict")
    until(lambda: metric(room, "rootstock_second_looks_total", result="agreed") == 3)

    damage(room, artifact.digest(second))
    wrong = ask("/v1/tasks/digits:predict").json()
    assert wrong["release"] == 2
    assert wrong["predictions"] != before["predictions"]
    until(lambda: metric(room, "rootstock_quarantined_releases") == 1)

    answer = ask("/v1/tasks/digits:predict")
    assert (answer.status_code, answer.json()["release"]) == (200, 1)
    assert answer.headers["x-adapter-digest"] == artifact.digest(first)
    assert ask("/v1/tasks/flowers:predict").json()["release"] == 1
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["failing"]) == (200, ["digits"])
    assert ready.json()["engines"][0]["quarantined"] == ["digits@2"]
    named = ask("/v1/tasks/digits@2:predict")
    assert (named.status_code, named.json()["code"]) == (503, "release_failed")
    again = client.put("/v1/tasks/digits", content=second)
    assert (again.status_code, again.json()["code"]) == (503, "quarantined")
    assert metric(room, "rootstock_second_looks_total", result="disagreed") == 1
    assert replica.generation == 3, "nothing about it is written to the log"
    replica.residency.check()

    publish("digits", seed=3)
    until(lambda: replica.generation == 4)
    assert ask("/v1/tasks/digits:predict").json()["release"] == 3


@pytest.mark.slow
def test_with_none_before_it_the_failure_is_said(replica_of, publish, http, png):
    data = publish("digits")
    replica = replica_of(second_look_share=1.0)
    client, room = http(replica), room_of(replica)
    ask = partial(client.post, "/v1/tasks/digits:predict", content=png, headers=IMAGE)
    ask()
    flip_head(room, artifact.digest(data))
    until(lambda: ask().status_code == 503)

    assert ask().json()["code"] == "release_failed"


@pytest.mark.slow
def test_a_merged_copy_that_answers_wrongly_loses_its_place_and_no_more(
    replica_of, publish, http, png, monkeypatch
):
    """The release still answers, by the mixed lane, and is looked at there."""
    monkeypatch.setattr("serving.engine_room.measure", lambda engine, best: Gain())
    digest = artifact.digest(publish("digits"))
    replica = replica_of(second_look_share=1.0, merged_bytes=2**24, merged_pin=("digits",))
    client, room = http(replica), room_of(replica)
    ask = partial(client.post, "/v1/tasks/digits:predict", content=png, headers=IMAGE)
    until(lambda: digest in room.hot.merged)
    right = ask().json()
    assert right["path"] == "merged"
    until(lambda: metric(room, "rootstock_second_looks_total", result="agreed") == 1)

    flip(room.hot._folded[digest].net.get_parameter("blocks.1.attn.qkv.weight"))
    ask()
    until(lambda: room.hot.merged == frozenset())

    answer = ask().json()
    assert (answer["path"], answer["release"]) == ("mixed", 1)
    assert answer["predictions"][0]["label"] == right["predictions"][0]["label"]
    agreed = partial(metric, room, "rootstock_second_looks_total", path="mixed", result="agreed")
    until(lambda: agreed() == 1)
    assert metric(room, "rootstock_merges_total", change="demoted", reason="disagreed") == 1
    assert metric(room, "rootstock_quarantined_releases") == 0
    room.hot.look()
    assert room.hot.merged == frozenset(), "nor is it merged again"


@pytest.mark.slow
def test_an_honest_replica_condemns_nobody(replica_of, publish, http, png):
    methods = ("alore", "lora", "linear")
    for seed, method in enumerate(methods):
        publish(method, method, seed=seed)
    replica = replica_of(second_look_share=1.0, dtype="bf16")
    client, room = http(replica), room_of(replica)
    every = "&".join(f"task={method}" for method in methods)
    for _ in range(4):
        assert client.post(f"/v1/predict?{every}", content=png).status_code == 200

    until(lambda: metric(room, "rootstock_second_looks_total", result="agreed") == 12)

    assert metric(room, "rootstock_second_looks_total") == 12
    assert metric(room, "rootstock_second_looks_dropped_total") == 0
    room.second.check()


@pytest.mark.slow
def test_without_a_share_nothing_is_kept(replica_of, publish, http, png):
    publish("digits")
    replica = replica_of(second_look_share=0)
    http(replica).post("/v1/tasks/digits:predict", content=png)

    assert room_of(replica).second is None
    assert metric(room_of(replica), "rootstock_second_looks_total") == 0


@pytest.mark.slow
def test_doors_across_a_hop_follow_a_quarantine(settings_of, publish, png):
    publish("digits")
    settings = settings_of(topology="split", second_look_share=1.0, poll_s=3600)
    room = EngineRoom(settings, "engine-1")

    async def ask():
        async with clients(settings, room) as (split, _, _, door):
            post = partial(split.post, "/v1/tasks/digits:predict", content=png, headers=IMAGE)
            assert (await post()).json()["release"] == 1
            second = publish("digits", seed=2)
            for follower in (room.follower, door.follower):
                await asyncio.to_thread(follower.catch_up)
            assert (await post()).json()["release"] == 2
            flip_head(room, artifact.digest(second))
            await post()
            gone = partial(metric, room, "rootstock_quarantined_releases")
            await asyncio.to_thread(until, lambda: gone() == 1)

            answers = [await post() for _ in range(3)]

            assert [a.status_code for a in answers] == [200] * 3
            assert [a.json()["release"] for a in answers] == [1] * 3
            ready = (await split.get("/readyz")).json()
            assert ready["engines"][0]["quarantined"] == ["digits@2"]
            assert ready["failing"] == ["digits"]

    try:
        asyncio.run(ask())
    finally:
        room.close()


def test_what_is_quarantined_while_it_loads_or_runs_does_not_come_back(residency, artifacts, shelf):
    """Whoever holds it: a batch that runs still ends, the next one has no place for it."""
    digest, other = (shelf.put(data) for data in artifacts[:2])
    held = residency.get(digest).result(10)
    residency.get(other).result(10)
    placed = residency.slot([digest, other])
    error = QuarantinedError("digits", 1, ("other logits",))

    residency.quarantine(digest, error)
    residency.release(placed)

    assert residency.resident() == (other,)
    found = residency.slot([digest, other])
    assert found.pop(digest) is error
    residency.release(found)
    with pytest.raises(AdapterError):
        residency.get(digest).result(10)
    with pytest.raises(QuarantinedError):
        residency.install(digest, artifacts[0], "digits")
    residency.prefetch([digest])
    residency.forget([digest])
    residency.check()
    assert held.digest == digest
    assert residency.refused(digest)
    assert residency.quarantines() == [error]


def test_a_load_under_way_ends_with_the_quarantine(residency, artifacts, shelf):
    digest = shelf.put(artifacts[0])
    loader = residency._host._loader
    real = loader.prove

    def prove(*how):
        residency.quarantine(digest, QuarantinedError("digits", 1, ("other logits",)))
        real(*how)

    loader.prove = prove
    load = residency.get(digest)
    wait([load], 10)

    assert isinstance(load.exception(), QuarantinedError)
    assert residency.known() == 0


def test_a_load_under_way_that_fails_by_itself_takes_no_quarantine_back(
    residency, artifacts, shelf
):
    digest = shelf.put(artifacts[0])
    error = QuarantinedError("digits", 1, ("other logits",))

    def prove(*how):
        residency.quarantine(digest, error)
        raise EffectFailedError("digits", ("other logits",))

    residency._host._loader.prove = prove
    wait([residency.get(digest)], 10)

    assert residency.quarantines() == [error]
    with pytest.raises(QuarantinedError):
        residency.install(digest, artifacts[0], "digits")
    residency.check()


@pytest.mark.parametrize("place", ["at_hand", "place"])
def test_a_quarantine_while_a_slot_is_sought_leaves_none_behind(
    residency, artifacts, shelf, monkeypatch, place
):
    """Between any two steps: it is that error, and not that nobody holds the adapter."""
    digest = shelf.put(artifacts[0])
    held = residency.get(digest).result(10)
    error = QuarantinedError("digits", 1, ("other logits",))
    part = residency._host if place == "at_hand" else residency._placing
    real = getattr(part, place)

    def meanwhile(what):
        residency.quarantine(digest, error)
        return real(what)

    monkeypatch.setattr(part, place, meanwhile)
    found = residency.slot([digest])
    residency.release(())

    assert found == {digest: error}
    assert residency.resident() == ()
    residency.check()
    assert held.digest == digest


def test_numbers_flipped_in_a_test_are_really_others():
    for tensor in (torch.arange(1.0, 9.0), torch.arange(1, 9, dtype=torch.uint8)):
        before = tensor.clone()
        flip(tensor)
        assert not np.array_equal(before.numpy(), tensor.numpy())
