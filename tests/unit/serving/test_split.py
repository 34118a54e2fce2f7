"""A door across a hop answers as one with the engine inside; over one real engine, without Ray."""

import asyncio
import hashlib
import pickle
from contextlib import asynccontextmanager

import httpx2
import pytest

from adapters_store import artifact
from adapters_store.adapter import Adapter
from adapters_store.store import AdapterStore
from serving import api
from serving.config import Settings
from serving.door import Door, Place
from serving.engine_room import EngineRoom
from serving.errors import EngineLostError
from serving.replica import Here
from serving.split_door import split_door
from serving.types import Kind

IMAGE = {"Content-Type": "image/png"}


class Wire:
    """To one engine of this process; whatever crosses is pickled, as it is between processes."""

    def __init__(self, room: EngineRoom) -> None:
        self.room, self.dying, self.groups = room, 0, 0

    async def compute(self, group, *, patient):
        self.groups += 1
        if self.dying:
            self.dying -= 1
            raise EngineLostError("killed")
        return crossed(await self.room.compute(crossed(group), patient=patient))

    async def card(self, digest):
        return crossed(await self.room.card(crossed(digest)))

    async def install(self, digest, data, task):
        return crossed(await asyncio.to_thread(self.room.install, digest, data, task))

    async def status(self, timeout_s):
        ready, status = self.room.ready()
        return [{"ready": ready, **status}] if not self.dying else []


def crossed(value):
    """As it arrives on the other side."""
    return pickle.loads(pickle.dumps(value))


class Both:
    """A fleet of a door and its engine; keeps the promise of `Fleet`."""

    def __init__(self, door: Door, room: EngineRoom) -> None:
        self.members = [door, room]

    async def broadcast(self, method, *args, timeout_s=2.0):
        return [await asyncio.to_thread(m.call, method, *args) for m in self.members]

    def expected(self):
        return len(self.members)

    def request_id(self):
        return "request-1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def settings(tiny, weights, folder) -> Settings:
    return Settings(
        store=f"file://{folder}",
        backbone=tiny.spec.ref.name,
        weights=weights,
        backbone_kwargs=tiny.spec.ref.kwargs,
        topology="split",
        batch_max=8,
        slots=16,
        tasks_max=12,
        poll_s=3600,
    )


@pytest.fixture(scope="module")
def published(tiny, make_adapter, folder) -> AdapterStore:
    """`digits` of operators, `flowers` and `birds` of heads alone, and ten more of those."""
    store = AdapterStore.open(f"file://{folder}", tiny.spec.ref.digest)
    for task, method, seed in (("digits", "alore", 0), ("flowers", "linear", 1)):
        store.publish(artifact.write(make_adapter(tiny, method, task, seed=seed)), task, by="test")
    for i in range(10):
        data = artifact.write(make_adapter(tiny, "linear", f"head-{i}", seed=i, labels=2 + i))
        store.publish(data, f"head-{i}", by="test")
    return store


@pytest.fixture(scope="module")
def room(settings, published):
    made = EngineRoom(settings, "engine-1")
    yield made
    made.close()


@asynccontextmanager
async def clients(settings, room):
    """(client of a split door, client of a fused one, the wire, the split door)."""
    wire, loop = Wire(room), asyncio.get_running_loop()
    split = await asyncio.to_thread(
        split_door, settings, "door-1", room.spec, settings.batch_max, wire, loop
    )
    whole = Place(
        spec=room.spec,
        store=room.store,
        telemetry=room.telemetry,
        follower=room.follower,
        residency=room.residency,
        engines=Here(room),
    )
    fused = Door(settings, "engine-1", whole, Kind.FUSED)
    made = []
    for door in (split, fused):
        app = api.build(door, Both(door, room))
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        made.append(httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1"))
    try:
        yield (*made, wire, split)
    finally:
        split.engines.check()
        await asyncio.to_thread(split.close)
        for pool in (fused._decoders, fused._writers, fused._waiters):
            pool.shutdown()  # the engine under it serves the next test too


def told(answer) -> tuple:
    """What both must say alike: all but what is measured."""
    headers = {k: v for k, v in answer.headers.items() if k in ("x-generation", "content-type")}
    timing = answer.headers.get("server-timing", "")
    stages = [stage.partition(";")[0] for stage in timing.split(", ")]
    return answer.status_code, answer.text, headers, answer.headers.get("x-adapter-digest"), stages


CALLS = [
    ("digits:predict", IMAGE, True),
    ("flowers@1:predict", IMAGE, True),
    ("nowhere:predict", IMAGE, True),
    ("digits@7:predict", IMAGE, True),
    ("digits:predict?top_k=0", IMAGE, True),
    ("digits:predict", IMAGE, False),
    ("digits:predict", {"Content-Type": "text/plain"}, True),
    ("digits:predict", {**IMAGE, "X-Request-Deadline-Ms": "0"}, True),
    ("digits:predict", {**IMAGE, "X-Request-Deadline-Ms": "x"}, True),
    ("digits:predict", {**IMAGE, "X-Min-Generation": "99", "X-Request-Deadline-Ms": "1000"}, True),
]


def test_both_topologies_answer_alike(settings, room, png):
    """Predictions, problems, headers: who stands behind the door does not show."""

    async def ask():
        async with clients(settings, room) as (split, fused, _, _):
            for path, headers, sound in CALLS:
                body = png if sound else b"no picture"
                one, other = [
                    told(await c.post(f"/v1/tasks/{path}", content=body, headers=headers))
                    for c in (split, fused)
                ]
                assert one == other, path
            listed, about = [(await split.get(p)).json() for p in ("/v1/tasks", "/v1/tasks/digits")]
            assert len(listed["items"]) == 12
            assert about["method"] == "alore"
            assert {r["kind"] for r in about["replicas"]} == {"door", "engine"}

    asyncio.run(ask())


@pytest.mark.parametrize("topology", ["split", "fused"])
def test_one_image_for_many_tasks_is_one_forward_where_they_are_heads(
    settings, room, png, topology, monkeypatch
):
    """Ten heads share a forward, the eleventh task has its own; each answers as if asked alone."""
    ran, run = [], room.engine.run

    def counted(pictures, adapters):
        ran.append(len(pictures))
        return run(pictures, adapters)

    monkeypatch.setattr(room.engine, "run", counted)

    async def ask():
        async with clients(settings, room) as (split, fused, _, _):
            client = split if topology == "split" else fused
            tasks = [f"head-{i}" for i in range(10)] + ["digits", "nowhere"]
            query = "&".join(f"task={task}" for task in tasks)
            warm = await client.post(f"/v1/predict?{query}", content=png, headers=IMAGE)
            assert warm.status_code == 200
            ran.clear()

            answer = await client.post(f"/v1/predict?{query}", content=png, headers=IMAGE)

            forwards = sum(ran)
            results = answer.json()["results"]
            assert answer.status_code == 200
            assert results[-1]["status"] == 404
            assert [r["task"] for r in results[:-1]] == tasks[:-1]
            for task, result in zip(tasks[:-1], results, strict=False):
                url = f"/v1/tasks/{task}:predict"
                alone = (await client.post(url, content=png, headers=IMAGE)).json()
                assert [p["label"] for p in result["predictions"]] == [
                    p["label"] for p in alone["predictions"]
                ]
                assert result["predictions"][0]["probability"] == pytest.approx(
                    alone["predictions"][0]["probability"], abs=1e-5
                )
            return forwards, answer

    forwards, answer = asyncio.run(ask())
    assert forwards == 2
    assert "x-adapter-digest" not in answer.headers
    assert answer.headers["x-generation"] == "12"


def test_a_call_for_many_tasks_is_bounded_and_holds_one_image(settings, room, png):
    async def ask():
        async with clients(settings, room) as (split, _, _, _):
            many = "&".join(["task=digits"] * 13)
            assert (await split.post(f"/v1/predict?{many}", content=png)).status_code == 400
            assert (await split.post("/v1/predict", content=png)).status_code == 422
            two = [("file", ("a.png", png)), ("file", ("b.png", png))]
            assert (await split.post("/v1/predict?task=digits", files=two)).status_code == 400
            bad = await split.post("/v1/predict?task=digits", content=b"x", headers=IMAGE)
            assert bad.status_code == 400
            none = await split.post("/v1/predict?task=a&task=b", content=b"x", headers=IMAGE)
            assert [r["status"] for r in none.json()["results"]] == [404, 404]

    asyncio.run(ask())


def test_a_door_publishes_what_an_engine_verified_and_refuses_what_it_does_not(
    settings, room, tiny, make_adapter, published, png
):
    """The engine's faults come through whole; what passed answers at once, by its generation."""
    good = make_adapter(tiny, "lora", "pets", seed=3)
    broken = {k: -v if "B_" in k else v for k, v in good.tensors.items()}
    bad = artifact.write(Adapter(manifest=good.manifest, tensors=broken))
    data = artifact.write(good)

    async def ask():
        async with clients(settings, room) as (split, _, _, _):
            refused = await split.put("/v1/tasks/pets", content=bad)
            assert (refused.status_code, refused.json()["code"]) == (422, "effect_failed")
            assert refused.json()["faults"]
            assert (await split.put("/v1/tasks/cats", content=data)).status_code == 409

            put = await split.put("/v1/tasks/pets?wait=true", content=data)

            assert put.status_code == 201
            assert put.json()["replicas"] == 2
            assert put.json()["ready"] is True
            headers = {**IMAGE, "X-Min-Generation": str(put.json()["generation"])}
            answer = await split.post("/v1/tasks/pets:predict", content=png, headers=headers)
            assert answer.json()["digest"] == hashlib.sha256(data).hexdigest()
            assert (await split.delete("/v1/tasks/pets")).status_code == 200

    asyncio.run(ask())


def test_a_release_that_no_engine_passes_leaves_the_one_before_answering(
    settings, room, tiny, make_adapter, published, png
):
    good = make_adapter(tiny, "lora", "digits", seed=5)
    broken = {k: -v if "B_" in k else v for k, v in good.tensors.items()}

    async def ask():
        async with clients(settings, room) as (split, _, _, door):
            url = "/v1/tasks/digits:predict"
            before = (await split.post(url, content=png, headers=IMAGE)).json()["release"]
            data = artifact.write(Adapter(manifest=good.manifest, tensors=broken))
            published.publish(data, "digits", by="somebody")
            await asyncio.to_thread(door.follower.catch_up)

            answer = await split.post(url, content=png, headers=IMAGE)

            assert answer.json()["release"] == before
            assert (await split.get("/readyz")).json()["failing"] == ["digits"]
            newest = published.catalog().task("digits").active
            pinned = await split.post(
                f"/v1/tasks/digits@{newest}:predict", content=png, headers=IMAGE
            )
            assert (pinned.status_code, pinned.json()["code"]) == (503, "release_failed")
            published.activate("digits", before, by="test")

    asyncio.run(ask())


def test_a_release_that_an_engine_has_to_load_first_takes_a_second_way(
    settings, room, tiny, make_adapter, published, png
):
    """The first way only begins the load; whoever asked is answered all the same."""
    data = artifact.write(make_adapter(tiny, "lora", "cold", seed=9))
    published.publish(data, "cold", by="test")

    async def ask():
        async with clients(settings, room) as (split, _, wire, _):
            url = "/v1/tasks/cold:predict"
            assert (await split.post(url, content=png, headers=IMAGE)).status_code == 200
            room.residency.forget([artifact.digest(data)])
            wire.groups = 0
            answer = await split.post(url, content=png, headers=IMAGE)
            assert answer.status_code == 200
            assert wire.groups == 2

    asyncio.run(ask())
    published.retire("cold", by="test")


def test_a_dead_engine_costs_a_retry_and_two_a_503(settings, room, png, monkeypatch):
    monkeypatch.setattr("serving.door._ASKED_AGAIN_S", 0.0)

    async def ask():
        async with clients(settings, room) as (split, _, wire, _):
            url = "/v1/tasks/flowers:predict"
            assert (await split.get("/readyz")).status_code == 200
            wire.dying = 1
            assert (await split.post(url, content=png, headers=IMAGE)).status_code == 200
            wire.dying = 2
            assert (await split.get("/readyz")).status_code == 503, "no engine answers"
            lost = await split.post(url, content=png, headers=IMAGE)
            assert (lost.status_code, lost.json()["code"]) == (503, "engine_lost")
            assert lost.headers["retry-after"] == "1"
            text = (await split.get("/metrics")).text
            assert 'rootstock_group_retries_total{replica="door-1"} 2.0' in text
            assert 'rootstock_resident_adapters{replica="engine-1",tier="slot"}' in text
            assert "rootstock_replicas_scraped 2.0" in text

    asyncio.run(ask())
