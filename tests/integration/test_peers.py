"""A peer from nothing to figures: tasks are made, served, held to the truth, and one is added."""

import asyncio

import pytest

from loadtest.crew import crew
from loadtest.peers import venvs
from loadtest.peers.bench import Bench
from loadtest.peers.measure import measured
from loadtest.peers.systems import named
from loadtest.peers.workplace import Order, workplace

pytestmark = pytest.mark.slow

(PEFT,) = named("peft")


@pytest.fixture(scope="module")
def place():
    order = Order("rootstock_nano", None, "bf16", None, 3, (2,))
    with workplace(order, lambda _: None) as made:
        yield made


def test_a_peer_is_measured_whole_and_agrees_with_the_truth(place):
    async def run():
        async with crew() as members:
            bench = Bench(place, members, 0.5, 4, 1000.0, 120.0, (5.0, 10.0))
            return await measured(
                bench, PEFT, venvs.python("peft"), PEFT.grid[0], 2, whole=True, checked=True
            )

    found = asyncio.run(run())

    assert found["dtypes"] == ["bf16"]
    assert found["agreement"] >= 0.99
    assert found["asked"] == sum(len(place.truth[task]) for task in place.tasks(2))
    assert found["throughput"] > 0
    assert found["wrong"] == found["failed"] == found["failed_high"] == found["add_failed"] == 0
    assert found["memory_mb"] > 100
    assert 0 < found["add_s"] < 60
