"""What a calm server says, before the load begins: labels that answers under load are held to."""

import asyncio
from collections.abc import Sequence
from typing import Final

from loadtest.discovery import words
from loadtest.errors import TargetError
from loadtest.images import Picture
from loadtest.outcomes import Outcome
from loadtest.plan import Plan, Want
from loadtest.scenario import Scenario
from loadtest.targets.protocol import UNREADABLE
from loadtest.targets.table import target as make_target
from loadtest.wire import Pool, Reply, origin_of

Learned = list[tuple[str, int, str, float]]  # (digest or task, image, label, margin)
Pair = tuple[int, int]  # task, image

_AT_ONCE: Final = 4


async def learn(scenario: Scenario, plan: Plan, pictures: Sequence[Picture]) -> Learned:
    """Ask the plan's first different pairs of task and image, a few at a time.

    Raises:
        TargetError: the very first is not answered; a load would only count failures.
    """
    pairs = _pairs(plan, scenario.checks.learn_max)
    if not pairs or scenario.checks.labels != "learn":
        return []
    learner = _Learner(scenario, plan, pictures)
    try:
        await learner.ask(pairs[0])
        if learner.refused:
            reason = f"the first request failed: {learner.refused[0]}"
            raise TargetError(scenario.target.url, reason)
        await asyncio.gather(*map(learner.ask, pairs[1:]))
    finally:
        learner.pool.close()
    return learner.found


class _Learner:
    def __init__(self, scenario: Scenario, plan: Plan, pictures: Sequence[Picture]) -> None:
        self._names = plan.names
        self._target = make_target(scenario.target, plan.names, pictures)
        self._waiting: dict[Pair, asyncio.Future[None]] = {}
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self.pool = Pool(origin_of(scenario.target.url), scenario.timeout_s, self._done)
        self.found: Learned = []
        self.refused: list[str] = []

    async def ask(self, pair: Pair) -> None:
        async with self._gate:
            self._waiting[pair] = asyncio.get_running_loop().create_future()
            self.pool.send(pair, self._target.request([pair[0]], pair[1], 0.0, 0))
            await self._waiting[pair]

    def _done(self, pair: Pair, reply: Reply | Outcome) -> None:
        task, image = pair
        if isinstance(reply, Outcome):
            self.refused.append(f"no answer ({reply.name.lower()})")
        elif not 200 <= reply.status < 300:
            self.refused.append(f"task {self._names[task]!r}: {words(reply)}")
        else:
            self._read(task, image, reply)
        if not self._waiting[pair].done():
            self._waiting[pair].set_result(None)

    def _read(self, task: int, image: int, reply: Reply) -> None:
        try:
            said = self._target.read(reply.headers, reply.body).said[0]
        except UNREADABLE:
            self.refused.append(f"no answer of this kind of target: {words(reply)}")
            return
        if said.label is not None:
            key = said.digest or self._names[task]
            self.found.append((key, image, said.label, said.margin))


def _pairs(plan: Plan, most: int) -> list[Pair]:
    found: dict[Pair, None] = {}
    for row, image, want in zip(plan.tasks, plan.image, plan.want, strict=True):
        if len(found) >= most:
            break
        if want == Want.PREDICTION:
            found.update({(int(task), int(image)): None for task in row})
    return list(found)[:most]
