"""Which answers are looked at again: an exact share, all releases among them, within a bound."""

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import looks
from serving.looks import Looks

NEVER = math.inf  # nothing is ever due, but the very first


def drawn(share: float, count: int, key: str = "a") -> list[int]:
    """Which answers of one stream are kept; the very first is due, whether it is drawn or not."""
    made: Looks[str, int] = Looks(share, 10**9, NEVER)
    for number in range(count):
        made.offer(key, 1, 0.0, lambda number=number: number)
    made.check()
    return [made.next() for _ in range(len(made))]


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5, 0.3, 0.1, 0.01, 0.001])
def test_the_share_is_exact(share):
    """One of each stretch, beside the very first: however many answers there were."""
    for count in (1, 7, 1000, 2003):
        kept = drawn(share, count)

        stretches = count * share
        assert len(set(kept)) == len(kept)
        assert math.floor(stretches) <= len(kept) <= math.ceil(stretches) + 1


def test_which_answers_are_drawn_follows_no_rhythm_and_is_the_same_every_time():
    kept = drawn(0.01, 5000)

    assert kept == drawn(0.01, 5000)
    assert kept != drawn(0.01, 5000, "b")
    assert len({number % 100 for number in kept}) > 20


def test_the_first_answer_of_everything_is_kept_and_again_after_a_while():
    made: Looks[str, str] = Looks(1e-6, 100, 600.0)
    kept = []

    for now in (0, 1, 599, 600, 601):
        for key in ("rare", "other"):
            made.offer(key, 1, now, lambda key=key, now=now: f"{key} at {now}")
        kept += [made.next() for _ in range(len(made))]

    assert kept == ["rare at 0", "other at 0", "rare at 600", "other at 600"]


def test_a_look_that_came_to_nothing_is_made_up_for():
    made: Looks[str, int] = Looks(1e-6, 100, 600.0)
    made.offer("a", 1, 0.0, lambda: 0)
    assert made.next() == 0

    made.offer("a", 1, 1.0, lambda: 1)
    assert made.next() is None
    made.again("a")
    made.offer("a", 1, 2.0, lambda: 2)

    assert made.next() == 2


def test_each_stream_has_its_turn():
    made: Looks[str, str] = Looks(1.0, 100, NEVER)
    for key in "aaaabbc":
        made.offer(key, 1, 0.0, lambda key=key: key)

    assert "".join(made.next() for _ in range(7)) == "abcabaa"
    assert made.next() is None


def test_what_finds_no_room_is_dropped_and_a_busy_release_gives_way_to_others():
    made: Looks[str, str] = Looks(1.0, 30, NEVER)
    lost = [made.offer("busy", 10, 0.0, lambda i=i: f"busy {i}") for i in range(4)]
    assert lost == [0, 0, 0, 1], "it does not push out its own"

    assert made.offer("rare", 10, 0.0, lambda: "rare") == 1
    assert made.offer("other", 10, 0.0, lambda: "other") == 1
    assert made.offer("late", 10, 0.0, lambda: "late") == 1, "none has more than one"
    made.check()

    assert [made.next() for _ in range(4)] == ["busy 0", "rare", "other", None]
    assert made.used_bytes == 0


def test_due_answers_that_find_no_room_count_once_until_one_finds_some():
    made: Looks[str, int] = Looks(1e-6, 10, 600.0)
    offer = partial(made.offer, nbytes=10, keep=lambda: 0)
    assert offer("first", now=0.0) == 0

    assert [offer("late", now=now) for now in (1.0, 2.0, 3.0)] == [1, 0, 0]
    made.next()
    assert offer("late", now=4.0) == 0
    assert [offer("first", now=now) for now in (700.0, 701.0)] == [1, 0]
    made.check()


def test_nothing_is_made_for_what_is_not_kept():
    made: Looks[str, int] = Looks(1.0, 5, NEVER)

    assert made.offer("a", 10, 0.0, lambda: pytest.fail("copied for nothing")) == 1
    assert len(made) == 0


def test_streams_that_nobody_asks_for_are_forgotten(monkeypatch):
    monkeypatch.setattr(looks, "STREAMS_MOST", 3)
    made: Looks[int, int] = Looks(1e-6, 100, NEVER)
    kept = []

    for key in (0, 1, 2, 0, 3, 0, 1):
        made.offer(key, 1, 0.0, lambda key=key: key)
        made.check()
        kept += [made.next() for _ in range(len(made))]

    assert kept == [0, 1, 2, 3, 1], "1 had to go for 3, and begins anew"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "offer", "offer", "next", "again", "forget"]),
        st.sampled_from("abcd"),
        st.integers(1, 40),
    ),
    max_size=60,
)


@given(share=st.floats(0.01, 1.0), steps=STEPS)
def test_any_history_keeps_the_books(share, steps):
    made: Looks[str, tuple[str, int]] = Looks(share, 100, 5.0)
    kept, out, lost, forgotten = [], [], 0, 0

    for now, (step, key, nbytes) in enumerate(steps):
        if step == "offer":
            item = (key, now)
            before, waited = len(kept), len(made)
            gone = made.offer(key, nbytes, now, lambda item=item: kept.append(item) or item)
            lost += waited + len(kept) - before - len(made)
            assert gone >= waited + len(kept) - before - len(made)
        elif step == "next":
            waited = len(made)
            found = made.next()
            assert (found is None) == (waited == 0)
            out += [] if found is None else [found]
        elif step == "again":
            made.again(key)
        else:
            waited = len(made)
            made.forget(key)
            forgotten += waited - len(made)
        made.check()
        assert len(kept) == len(out) + len(made) + lost + forgotten
    assert len(set(out)) == len(out)
    assert set(out) <= set(kept)
