"""Changes are told before they begin and after they end, and none is left half made."""

import asyncio
import json
import time

import pytest

from loadtest.churn import Churner
from loadtest.errors import TargetError
from loadtest.promises import ANY, GONE
from tests.unit.loadtest.conftest import make_scenario


class Store:
    """A catalog of one task over HTTP, as little of one as changes need; `refuses` are methods."""

    def __init__(self, refuses=(), says=None):
        self.refuses, self.says = refuses, says
        self.seen, self.generation = [], 3

    async def __call__(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
        method = head.split()[0].upper()
        self.seen.append(method)
        status, value = 200, {"generation": self.generation, "release": 7}
        if method == "GET":
            value = {"releases": [{"release": n, "retired": False} for n in (1, 2)], "active": 2}
        elif method in self.refuses:
            status, value = 503, {}
        else:
            self.generation += 1
            value["generation"] = self.generation
        body = json.dumps(value if self.says is None else self.says).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
        await writer.drain()
        writer.close()


def churned(store, tmp_path, act, **churn):
    """What `act(churner, tell)` gives, and what was told, of a run on this store."""
    header = json.dumps({"__metadata__": {"manifest": json.dumps({"task": "a"})}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)

    async def main():
        server = await asyncio.start_server(store, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        churn.setdefault("artifacts", str(tmp_path))
        scenario = make_scenario(target={"url": url}, churn=churn)
        told = []

        async def tell(_task, allowed, generation):
            told.append((set(allowed), generation))

        async with server:
            churner = await Churner.prepared(scenario, ("a", "b"))
            return churner, told, await act(churner, tell)

    return asyncio.run(main())


async def one(churner, tell):
    """The first change, and no other."""
    begun = asyncio.Event()

    async def heard(*what):
        begun.set()
        await tell(*what)

    running = asyncio.ensure_future(churner.run(heard, time.monotonic()))
    await begun.wait()
    await churner.end()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_a_task_that_was_retired_is_published_again_before_the_end(tmp_path):
    store = Store()

    churner, told, _ = churned(store, tmp_path, one, retire_every_s=0.01)

    assert store.seen[1:] == ["DELETE", "PUT"]
    assert [change["kind"] for change in churner.changes] == ["retire", "publish"]
    assert told == [
        ({ANY, GONE}, 0),
        ({GONE}, 4),
        ({ANY, GONE}, 4),
        ({7}, 5),
    ]


def test_a_task_that_could_not_be_published_again_may_still_be_gone(tmp_path):
    """The next change is told so: a right 404 is no failure."""
    store = Store(refuses=("PUT",))

    async def twice(churner, tell):
        await churner._retire(tell)
        await churner._publish(tell)

    churner, told, _ = churned(store, tmp_path, twice, retire_every_s=9)

    assert [change["made"] for change in churner.changes] == [True, False, False]
    assert told[-1] == ({ANY, GONE}, 4)


def test_an_answer_that_does_not_say_what_was_made_is_a_refusal(tmp_path):
    store = Store()

    async def act(churner, tell):
        store.says = ["made"]
        await churner._activate(tell)
        return churner.changes

    _, told, (change,) = churned(store, tmp_path, act, activate_every_s=9)

    assert (change["status"], change["made"]) == (200, False)
    assert told == [({ANY}, 0)]


def test_a_server_that_shows_no_releases_is_refused(tmp_path):
    with pytest.raises(TargetError, match="it shows no releases"):
        churned(Store(says={"releases": 3}), tmp_path, one, activate_every_s=9)
