"""From a door to engines: what goes together, what goes twice, and who is told what."""

import asyncio
import contextvars
from dataclasses import replace

import numpy as np
import pytest

from adapters_store.errors import EffectFailedError
from adapters_store.manifest import Preprocess
from serving.errors import (
    ClosingError,
    ColdError,
    DeadlineError,
    EngineLostError,
    OverloadedError,
)
from serving.hop import _SLACK_S, Hop
from serving.telemetry import Telemetry
from serving.types import Answer, Card, Path, Route, Sample

PICTURE = np.zeros((3, 4, 4), np.uint8)
ANSWER = Answer(logits=np.zeros(2, np.float32), path=Path.MIXED, compute_s=0.0, batch=1)
CARD = Card(
    digest="d0",
    task="t0",
    method="lora",
    labels=("a", "b"),
    preprocess=Preprocess(size=(4, 4), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    metrics={},
    head_only=False,
)
ASKER = contextvars.ContextVar("asker", default="nobody")


def sample(task: int = 0, budget_s: float = 60.0, **how) -> Sample:
    """One that wants a task."""
    route = Route(task=f"t{task}", release=1, digest=f"d{task}")
    return Sample(route=route, pixels=PICTURE, budget_s=budget_s, **how)


class Wire:
    """Groups as they arrive at engines; each is answered when the test says so."""

    def __init__(self) -> None:
        self.groups: list[tuple[list[Sample], asyncio.Future]] = []
        self.askers: list[str] = []
        self.patient: list[bool] = []
        self.cards = 0

    async def compute(self, group, *, patient):
        self.patient.append(patient)
        self.askers.append(ASKER.get())
        self.groups.append((list(group), asyncio.get_running_loop().create_future()))
        return await self.groups[-1][1]

    async def card(self, digest):
        self.cards += 1
        return replace(CARD, digest=digest)

    async def install(self, digest, data, task):
        return replace(CARD, digest=digest)

    async def status(self, timeout_s):
        return []

    def answer(self, number: int = -1, *outcomes) -> None:
        """Answer a group, with these outcomes or with answers."""
        group, future = self.groups[number]
        future.set_result(list(outcomes) or [ANSWER] * len(group))

    def die(self, number: int = -1) -> None:
        """The engine that has this group is gone."""
        self.groups[number][1].set_exception(EngineLostError("killed"))


async def turns() -> None:
    """Let everything happen that can happen now."""
    for _ in range(20):
        await asyncio.sleep(0)


def hopping(test):
    """Run a test with a wire and a hop of one engine over it."""

    def run():
        async def inside():
            wire = Wire()
            hop = Hop(
                wire,
                Telemetry(task_labels_max=4),
                asyncio.get_running_loop(),
                engines=1,
                room=8,
                group_max=4,
                budget_s=30.0,
                load_s=30.0,
            )
            await test(wire, hop)
            hop.check()

        asyncio.run(inside())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def asked(hop, *samples):
    """Tasks that wait for these samples."""
    return [asyncio.ensure_future(hop.compute(s)) for s in samples]


@hopping
async def test_two_groups_are_out_and_what_comes_meanwhile_goes_together(wire, hop):
    waiting = asked(hop, *(sample(i) for i in range(5)))
    await turns()
    assert [len(group) for group, _ in wire.groups] == [1, 1]
    assert hop.waiting == 3

    wire.answer(0)
    await turns()

    assert [len(group) for group, _ in wire.groups] == [1, 1, 3]
    wire.answer(1)
    wire.answer(2)
    assert len(await asyncio.gather(*waiting)) == 5


@hopping
async def test_a_group_goes_once_more_when_its_engine_dies(wire, hop):
    (waiting,) = asked(hop, sample())
    await turns()
    wire.die()
    await turns()
    assert len(wire.groups) == 2

    wire.answer()

    assert (await waiting).path == Path.MIXED


@hopping
async def test_a_group_that_takes_two_engines_along_is_given_up(wire, hop):
    waiting = asked(hop, sample())
    for _ in range(2):
        await turns()
        wire.die()

    (outcome,) = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(outcome, EngineLostError)
    await turns()
    assert len(wire.groups) == 2


@hopping
async def test_an_error_that_was_answered_is_never_sent_again(wire, hop):
    waiting = asked(hop, sample(0), sample(1))
    await turns()
    wire.answer(0, OverloadedError("full", 1))
    wire.answer(1)

    refused, fine = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(refused, OverloadedError)
    assert isinstance(fine, Answer)
    assert len(wire.groups) == 2


@hopping
async def test_an_engines_refusal_is_asked_about_before_it_is_believed(wire, hop):
    await asyncio.wrap_future(hop.known("d0"))
    waiting = asked(hop, sample(0))
    await turns()
    wire.answer(0, EffectFailedError("t0", ("wrong",)))

    with pytest.raises(EffectFailedError):
        await waiting[0]

    assert not hop.refused("d0")
    await asyncio.wrap_future(hop.known("d0"))
    assert wire.cards == 2


@hopping
async def test_a_client_that_leaves_takes_nobody_along(wire, hop):
    first, second, third, fourth = asked(hop, *(sample(i) for i in range(4)))
    await turns()
    first.cancel()
    third.cancel()
    await turns()
    wire.answer(1)
    wire.answer(0)
    await turns()

    assert [len(group) for group, _ in wire.groups] == [1, 1, 1], "who left does not travel"
    wire.answer(2)
    assert isinstance(await second, Answer)
    assert isinstance(await fourth, Answer)


@hopping
async def test_a_group_belongs_to_no_request(wire, hop):
    """Serve ends what was begun in a request's context when its client leaves."""
    ASKER.set("a request")
    (waiting,) = asked(hop, sample())
    await turns()
    wire.answer()
    await waiting

    assert wire.askers == ["nobody"]


@hopping
async def test_what_is_late_is_refused_at_the_door(wire, hop):
    waiting = asked(hop, sample(0), sample(1), sample(2, budget_s=0.0))
    await turns()
    wire.answer(0)
    await turns()

    assert isinstance((await asyncio.gather(waiting[2], return_exceptions=True))[0], DeadlineError)
    assert len(wire.groups) == 2
    wire.answer(1)
    await asyncio.gather(*waiting[:2])


@hopping
async def test_a_budget_travels_as_what_is_left_of_it(wire, hop):
    waiting = asked(hop, *(sample(i) for i in range(3)))
    await turns()
    wire.answer(0)
    await turns()

    (travelled,) = wire.groups[2][0]
    assert 0 < travelled.budget_s < 60.0
    wire.answer(1)
    wire.answer(2)
    answers = await asyncio.gather(*waiting)
    assert answers[2].queue_s > answers[0].queue_s, "waiting at the door is waiting"


@hopping
async def test_a_full_door_refuses_and_a_closing_one_too(wire, hop):
    waiting = asked(hop, *(sample(i) for i in range(10)))
    await turns()
    with pytest.raises(OverloadedError):
        await hop.compute(sample(11))

    while not all(task.done() for task in waiting):
        for group, future in wire.groups:
            if not future.done():
                future.set_result([ANSWER] * len(group))
        await turns()
    hop.drain()
    with pytest.raises(ClosingError):
        await hop.compute(sample())


@hopping
async def test_heads_of_one_picture_travel_in_one_group_and_hold_one_array(wire, hop):
    heads = [sample(i, head_only=True) for i in range(6)]
    waiting = asyncio.ensure_future(hop.compute_all(heads))
    await turns()

    ((group, _),) = wire.groups
    assert len(group) == 6
    assert len({id(s.pixels) for s in group}) == 1
    wire.answer()
    assert len(await waiting) == 6


@hopping
async def test_what_has_to_be_loaded_first_travels_again_and_holds_up_nobody(wire, hop):
    """Its neighbours are answered; the way that it goes apart takes no place of a group."""
    waiting = asked(hop, *(sample(i) for i in range(4)))
    await turns()
    wire.answer(0)
    await turns()
    wire.answer(2, ColdError(), ANSWER)
    await turns()

    assert waiting[3].done()
    assert not waiting[2].done()
    assert [s.route.task for s in wire.groups[3][0]] == ["t2"]
    assert wire.patient == [False, False, False, True], "only who takes no place may wait"
    later = asked(hop, sample(5))
    await turns()
    assert len(wire.groups) == 5, "group 1 is out, the cold one does not count"
    for number in (1, 3, 4):
        wire.answer(number)
    assert len(await asyncio.gather(*waiting, *later)) == 5


@hopping
async def test_two_cold_groups_stop_nobody(wire, hop):
    cold = asked(hop, sample(0), sample(1))
    await turns()
    wire.answer(0, ColdError())
    wire.answer(1, ColdError())
    await turns()

    (warm,) = asked(hop, sample(2))
    await turns()
    wire.answer(4)

    assert isinstance(await warm, Answer)
    assert not any(task.done() for task in cold)
    wire.answer(2)
    wire.answer(3)
    await asyncio.gather(*cold)


@hopping
async def test_what_waits_for_loads_is_bounded_and_gives_its_room_back(wire, hop):
    """When the load ends it stands in the engine's line all at once."""
    waiting = []
    for _ in range(9):
        waiting += asked(hop, sample())
        await turns()
        wire.answer(-1, ColdError())
        await turns()

    (refused,) = await asyncio.gather(waiting.pop(), return_exceptions=True)
    assert isinstance(refused, OverloadedError)
    assert hop._groups.apart == 8
    for number, patient in enumerate(wire.patient):
        if patient:
            wire.answer(number)
    assert all(isinstance(answer, Answer) for answer in await asyncio.gather(*waiting))
    await turns()
    assert hop._groups.apart == 0


@hopping
async def test_a_call_that_was_cancelled_elsewhere_leaves_nobody_waiting(wire, hop):
    waiting = asked(hop, sample())
    await turns()
    wire.groups[0][1].cancel()

    (outcome,) = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(outcome, EngineLostError)
    assert hop._groups.out == 0


@hopping
async def test_what_had_not_even_left_is_told_that_the_door_closes(wire, hop):
    """A task that is cancelled before its first step runs nothing of its coroutine."""
    card, jobs = hop.cards.get("d0"), []
    hop._loop.call_soon(lambda: jobs.extend(hop._sent([sample()])))
    hop._loop.call_soon(hop._give_up)
    await turns()

    assert (wire.groups, wire.cards) == ([], 0)
    assert isinstance(jobs[0].future.exception(), ClosingError)
    assert isinstance(card.exception(0), ClosingError)


@hopping
async def test_an_engine_that_hangs_keeps_no_place_for_as_long_as_a_client_asks(wire, hop):
    hop._silence_s = -_SLACK_S
    waiting = asked(hop, sample(budget_s=2.0**43))

    (outcome,) = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(outcome, EngineLostError)
    await turns()
    assert hop._groups.out == 0
