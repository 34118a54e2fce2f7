"""One question for all who ask at about the same time."""

import asyncio

import pytest

from serving.lately import Lately


class Question:
    """Counts how often it is asked; answers when told to."""

    def __init__(self) -> None:
        self.asked, self.now = 0, 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.wrong: Exception | None = None

    async def __call__(self) -> int:
        self.asked += 1
        number = self.asked
        await self.gate.wait()
        if self.wrong is not None:
            raise self.wrong
        return number


def lately(question: Question) -> Lately[int]:
    return Lately(question, 0.5, lambda: question.now)


def test_a_storm_asks_once_and_so_does_who_comes_a_moment_later():
    async def ask():
        question = Question()
        question.gate.clear()
        shared = lately(question)
        storm = [asyncio.ensure_future(shared()) for _ in range(50)]
        await asyncio.sleep(0)
        question.gate.set()

        assert set(await asyncio.gather(*storm)) == {1}
        question.now = 0.4
        assert await shared() == 1
        question.now = 0.6
        assert await shared() == 2

    asyncio.run(ask())


def test_who_leaves_takes_nobody_along():
    async def ask():
        question = Question()
        question.gate.clear()
        shared = lately(question)
        leaving, staying = (asyncio.ensure_future(shared()) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        question.gate.set()

        assert await staying == 1

    asyncio.run(ask())


def test_what_went_wrong_is_told_to_all_and_asked_again():
    async def ask():
        question = Question()
        question.wrong = OSError("away")
        shared = lately(question)
        with pytest.raises(OSError, match="away"):
            await shared()

        question.wrong = None

        assert await shared() == 2

    asyncio.run(ask())


def test_another_loop_asks_for_itself():
    """Tests have a loop for each request; a task of one cannot be awaited in another."""
    question = Question()
    shared = lately(question)

    assert asyncio.run(shared()) == 1
    assert asyncio.run(shared()) == 1
