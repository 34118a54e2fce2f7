"""Who gets in: a task's share of the places, one rule for deadlines, one answer for many probes."""

import asyncio
from concurrent.futures import Future
from contextlib import asynccontextmanager

import httpx2
import pytest

from adapters_store.errors import StoreUnavailableError
from serving import api
from serving.replica import Here
from tests.shelves import until
from tests.unit.serving.conftest import Alone

IMAGE = {"Content-Type": "image/png"}


@asynccontextmanager
async def client_of(replica):
    """A client whose calls run side by side, on one loop."""
    transport = httpx2.ASGITransport(api.build(replica, Alone(replica)), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://door") as client:
        yield client


async def let_in(replica, calls: int) -> None:
    """Wait until so many are inside."""

    def inside() -> float:
        (family,) = [f for f in replica.telemetry.snapshot() if f.name == "rootstock_in_flight"]
        return family.samples[0].value

    await asyncio.to_thread(until, lambda: inside() == calls)


def test_a_hot_task_leaves_places_for_others_and_hears_that_it_is_hot(replica_of, publish, png):
    """Its bodies come slowly, so that it holds all that it may have."""
    publish("hot")
    publish("rare", seed=1)
    replica = replica_of(queue_max=4, wait_s=60.0)
    share = replica.settings.inside_max * 4 // 5

    async def ask():
        gate = asyncio.Event()

        async def slowly():
            await gate.wait()
            yield png

        async with client_of(replica) as client:

            def call(task, body):
                return client.post(f"/v1/tasks/{task}:predict", content=body, headers=IMAGE)

            # Calls that wait for a load are in flight and hold no place.
            assert (await call("hot", png)).status_code == 200
            held = [asyncio.ensure_future(call("hot", slowly())) for _ in range(share)]
            await let_in(replica, share)
            full = await call("hot", png)
            assert (full.status_code, full.json()["code"]) == (503, "overloaded")
            assert (await call("rare", png)).status_code == 200

            held.append(asyncio.ensure_future(call("rare", slowly())))
            await let_in(replica, share + 1)
            busy = await call("hot", png)
            assert (busy.status_code, busy.json()["code"]) == (429, "task_busy")
            assert int(busy.headers["retry-after"]) >= 1
            assert "hot" in busy.json()["detail"]

            gate.set()
            assert {one.status_code for one in await asyncio.gather(*held)} == {200}
            assert (await call("hot", png)).status_code == 200

    asyncio.run(ask())
    assert 'outcome="task_busy"' in _metrics(replica)


def test_tasks_whose_store_is_silent_do_not_keep_out_those_that_are_here(
    replica_of, publish, png, monkeypatch
):
    publish("here")
    publish("away", seed=1)
    replica = replica_of(queue_max=4, wait_s=60.0)
    known = replica.engines.known
    unasked = {one.digest for one in replica.follower.view.catalog.tasks["away"].releases}
    share = replica.settings.inside_max * 4 // 5

    async def ask():
        found, silence = asyncio.Event(), Future()

        def silent(digest):
            return silence if digest in unasked else known(digest)

        monkeypatch.setattr(replica.engines, "known", silent)
        async with client_of(replica) as client:

            async def slowly():
                await found.wait()
                yield png

            def call(task, body):
                return client.post(f"/v1/tasks/{task}:predict", content=body, headers=IMAGE)

            assert (await call("here", png)).status_code == 200, "it is at hand now"
            away = [asyncio.ensure_future(call("away", png)) for _ in range(share)]
            await let_in(replica, share)
            one_more = await call("away", png)
            assert (one_more.status_code, one_more.json()["code"]) == (503, "overloaded")
            here = [asyncio.ensure_future(call("here", slowly())) for _ in range(share)]
            await let_in(replica, 2 * share)

            found.set()
            silence.set_exception(StoreUnavailableError("s3://…", "no answer"))
            assert {one.status_code for one in await asyncio.gather(*here)} == {200}
            assert {one.status_code for one in await asyncio.gather(*away)} == {503}

    asyncio.run(ask())


def _metrics(replica) -> str:
    async def ask() -> str:
        async with client_of(replica) as client:
            return (await client.get("/metrics")).text

    return asyncio.run(ask())


@pytest.mark.parametrize("asked_ms", ["9007199254740991", "60000", "1e15"])
def test_nobody_gets_more_time_than_the_server_gives(
    replica_of, publish, png, asked_ms, monkeypatch
):
    publish("digits")
    replica = replica_of(budget_s=7.0)
    given, classify = [], replica.classify

    async def noted(*args, budget_s, **how):
        given.append(budget_s)
        return await classify(*args, budget_s=budget_s, **how)

    monkeypatch.setattr(replica, "classify", noted)

    async def ask():
        async with client_of(replica) as client:
            headers = {**IMAGE, "X-Request-Deadline-Ms": asked_ms}
            answer = await client.post("/v1/tasks/digits:predict", content=png, headers=headers)
            assert answer.status_code == 200

    asyncio.run(ask())
    assert 0 < given[0] <= 7.0


def test_a_storm_of_probes_asks_the_engines_once(replica_of, monkeypatch):
    asked, status = [], Here.status

    async def counted(self):
        asked.append(1)
        return await status(self)

    monkeypatch.setattr(Here, "status", counted)
    replica = replica_of()

    async def ask():
        async with client_of(replica) as client:
            probes = [p for _ in range(20) for p in ("/readyz", "/v2/health/ready")]
            answers = await asyncio.gather(*(client.get(p) for p in probes))
            assert {a.status_code for a in answers} == {200}

    asyncio.run(ask())
    assert len(asked) == 1


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault_of_ours(replica_of, publish):
    """It is counted as gone, and its place is free again."""
    publish("digits")
    replica = replica_of(wait_s=60.0)
    app = api.build(replica, Alone(replica))
    sent = iter(({"type": "http.request", "body": b"\x89PNG", "more_body": True},))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/tasks/digits:predict",
        "raw_path": b"/v1/tasks/digits:predict",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"image/png")],
    }

    async def receive():
        return next(sent, {"type": "http.disconnect"})

    async def send(_message) -> None:
        pass

    asyncio.run(app(scope, receive, send))

    text = _metrics(replica)
    assert 'outcome="gone"' in text
    assert 'outcome="internal"' not in text
    asyncio.run(let_in(replica, 0))


def test_many_scrapes_at_once_are_one_broadcast(replica_of):
    replica = replica_of()
    asked = []

    class Counting(Alone):
        async def broadcast(self, method, *args, timeout_s=2.0):
            asked.append(method)
            await asyncio.sleep(0.05)
            return await super().broadcast(method, *args, timeout_s=timeout_s)

    async def ask():
        transport = httpx2.ASGITransport(api.build(replica, Counting(replica)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://door") as client:
            return await asyncio.gather(*(client.get("/metrics") for _ in range(8)))

    answers = asyncio.run(ask())

    assert {a.status_code for a in answers} == {200}
    assert len({a.text for a in answers}) == 1
    assert asked == ["metrics"]
