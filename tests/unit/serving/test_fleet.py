"""The way to engines by Ray: what says that one is lost, and what is its answer."""

import asyncio

import grpc
import pytest

from serving.errors import EngineLostError

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's imports, not ours


class Handle:
    """Of a deployment whose engine fails in the way that the test wants."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def options(self, **how):
        return self

    async def _fail(self):
        raise self.error

    def remote(self, *args, **how):
        return self._fail()


@pytest.fixture
def wire():
    """To an engine that fails so."""
    from serving.fleet import RayFleet, RayWire

    return lambda handle: RayWire(handle, RayFleet("app", {}))


@pytest.mark.parametrize("code", ["CANCELLED", "UNKNOWN", "INTERNAL", "UNAVAILABLE"])
def test_a_call_that_breaks_on_its_way_is_a_lost_engine(wire, code):
    handle = Handle(grpc.aio.AioRpcError(grpc.StatusCode[code]))

    with pytest.raises(EngineLostError, match=code):
        asyncio.run(wire(handle).compute([], patient=False))


def test_a_message_that_is_too_large_is_no_lost_engine(wire):
    handle = Handle(grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED))

    with pytest.raises(grpc.aio.AioRpcError):
        asyncio.run(wire(handle).compute([], patient=False))


def test_a_cancellation_that_came_by_the_wire_is_a_lost_engine(wire):
    with pytest.raises(EngineLostError):
        asyncio.run(wire(Handle(asyncio.CancelledError())).compute([], patient=False))


def test_a_cancellation_of_ones_own_is_one(wire):
    class Silent(Handle):
        async def _fail(self):
            await asyncio.Event().wait()

    async def ask():
        silent = wire(Silent(RuntimeError()))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await silent.compute([], patient=False)
        task = asyncio.ensure_future(silent.compute([], patient=False))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())


class Broadcast:
    """Of a deployment that has so many replicas just now; each answers at once."""

    def __init__(self, count: int) -> None:
        self.count = count

    def broadcast(self, *args):
        return self

    async def _fetch_replica_results_async(self):
        return [self] * self.count

    async def get_async(self):
        return "here"


@pytest.mark.parametrize(("scaled", "expected"), [(False, 4), (True, 2)])
def test_where_replicas_are_scaled_as_many_are_expected_as_there_are(scaled, expected, monkeypatch):
    """A fleet of a fixed size misses what is gone; a scaled one is as large as Serve says."""
    from serving.fleet import RayFleet

    fleet = RayFleet("app", {"rootstock": 4}, scaled=scaled)
    monkeypatch.setattr("ray.serve.get_deployment_handle", lambda *_: Broadcast(2))

    answers = asyncio.run(fleet.broadcast("metrics"))

    assert answers == ["here", "here"]
    assert fleet.expected() == expected
