"""What a door knows of adapters: asked once, kept, and refused for a while."""

from concurrent.futures import Future

import pytest

from adapters_store.errors import EffectFailedError, StoreUnavailableError
from adapters_store.manifest import Preprocess
from serving.cards import Cards
from serving.errors import QuarantinedError
from serving.types import Card

WAY = Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def card(digest: str, labels: int = 2) -> Card:
    """Of an adapter with that many labels."""
    names = tuple(f"label {i}" for i in range(labels))
    return Card(
        digest=digest,
        task="digits",
        method="lora",
        labels=names,
        preprocess=WAY,
        metrics={},
        head_only=False,
    )


class Engine:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Future[Card]]] = []

    def __call__(self, digest: str) -> Future[Card]:
        self.asked.append((digest, Future()))
        return self.asked[-1][1]


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def cards(engine):
    made = Cards(engine)
    yield made
    made.check()


def test_an_engine_is_asked_once_however_many_wait(cards, engine):
    first, second = cards.get("d"), cards.expect("d")
    engine.asked[0][1].set_result(card("d"))

    assert first.result(0) == second.result(0) == cards.get("d").result(0) == card("d")
    assert len(engine.asked) == 1


def test_a_refusal_is_remembered_until_an_engine_has_verified_those_bytes(cards, engine):
    future = cards.get("d")
    engine.asked[0][1].set_exception(EffectFailedError("digits", ("wrong",)))

    with pytest.raises(EffectFailedError):
        future.result(0)
    with pytest.raises(EffectFailedError):
        cards.get("d").result(0)
    assert len(engine.asked) == 1
    assert cards.refused("d")
    assert cards.refusals() == {"d"}
    cards.keep(card("d"))
    assert not cards.refused("d")
    assert cards.get("d").result(0) == card("d")


def test_a_refusal_is_one_engines_word_and_is_asked_about_again(engine):
    now = 0.0
    cards = Cards(engine, clock=lambda: now)
    cards.get("d")
    engine.asked[0][1].set_exception(EffectFailedError("digits", ("wrong",)))

    now = 29.0
    assert cards.refused("d")
    now = 31.0
    assert not cards.refused("d")
    assert cards.refusals() == {"d"}, "a reader is told until an engine says otherwise"
    future = cards.get("d")
    engine.asked[1][1].set_result(card("d"))

    assert future.result(0) == card("d")
    assert cards.refusals() == frozenset()
    cards.check()


def test_a_refusal_that_is_forgotten_is_asked_about_again(cards, engine):
    cards.get("d")
    engine.asked[0][1].set_exception(EffectFailedError("digits", ("wrong",)))

    cards.forget(["d"])

    assert not cards.refused("d")
    cards.get("d")
    assert len(engine.asked) == 2


def test_a_quarantine_is_believed_for_a_while_and_another_denial_is_asked_about(engine):
    """Else a group would come to the engine that has it quarantined again and again."""
    now = 0.0
    cards = Cards(engine, clock=lambda: now)
    for digest in "de":
        cards.keep(card(digest))

    cards.denied("d", QuarantinedError("digits", 2, ("other logits",)))
    cards.denied("e", EffectFailedError("digits", ("wrong",)))

    assert (cards.refused("d"), cards.refused("e")) == (True, False)
    with pytest.raises(QuarantinedError):
        cards.get("d").result(0)
    now = 31.0
    cards.get("d")
    cards.get("e")
    assert [digest for digest, _ in engine.asked] == ["d", "e"]
    cards.check()


def test_what_could_not_be_had_is_asked_for_again(cards, engine):
    future = cards.get("d")
    engine.asked[0][1].set_exception(StoreUnavailableError("s3://x", "away"))

    with pytest.raises(StoreUnavailableError):
        future.result(0)
    cards.get("d")
    assert [digest for digest, _ in engine.asked] == ["d", "d"]


def test_memory_is_bounded_and_the_least_used_goes(engine):
    cards = Cards(engine, most_bytes=3000)
    for digest in "abc":
        cards.keep(card(digest))

    cards.get("c")
    cards.get("a")

    assert [digest for digest, _ in engine.asked] == ["a"]
    cards.check()
