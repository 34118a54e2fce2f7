"""The line before decoding: fair, only as far ahead as engines want, and no hope that is none."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import DeadlineError, OverloadedError
from serving.turns import Turns


class Bench:
    """A door whose clock, engines and dice a test moves by hand."""

    def __init__(self, *, room=20, ahead=2, wait_s=1.0) -> None:
        self.now, self.at_hand = 0.0, 0
        self.turns = Turns(
            room=room,
            ahead=ahead,
            wait_s=wait_s,
            at_hand=lambda: self.at_hand,
            clock=lambda: self.now,
            dice=lambda: 0.0,
        )

    def stand(self, task="a", left_s=100.0):
        """Come, with so much time."""
        return self.turns.stand(task, self.now + left_s)

    def slow(self, each_s=0.5, turns=10) -> None:
        """Let it be known how long a turn takes."""
        line = [self.stand("slow") for _ in range(turns)]
        for turn in line:
            assert turn.done()
            self.now += each_s
            self.turns.leave()


@pytest.fixture
def bench():
    return Bench()


def test_no_more_is_decoded_than_engines_want_at_hand(bench):
    line = [bench.stand() for _ in range(5)]
    assert [turn.done() for turn in line] == [True, True, False, False, False]

    bench.at_hand = 1
    bench.turns.leave()
    assert bench.turns.waiting == 3, "one is decoded, one is being decoded"

    bench.at_hand = 0
    bench.turns.give()
    assert [turn.done() for turn in line] == [True, True, True, False, False]
    bench.turns.check()


def test_turns_go_round_the_tasks(bench):
    hot = [bench.stand("hot") for _ in range(6)]
    rare = bench.stand("rare")

    bench.turns.leave()
    bench.turns.leave()

    assert rare.done()
    assert sum(turn.done() for turn in hot) == 3


def test_one_task_never_has_the_whole_line(bench):
    for _ in range(18):
        bench.stand("hot")
    with pytest.raises(OverloadedError, match="16 images wait already"):
        bench.stand("hot")

    assert bench.turns.refusal("rare", 100.0) is None


def test_what_is_late_is_refused_before_it_is_decoded_and_takes_no_turn(bench):
    for _ in range(2):
        bench.stand()
    late, fine = bench.stand(left_s=1.0), bench.stand(left_s=9.0)
    bench.now = 2.0
    bench.turns.leave()

    with pytest.raises(DeadlineError):
        late.result(0)
    assert fine.done()


def test_what_could_only_be_answered_late_is_refused_too(bench):
    for _ in range(40):
        bench.turns.answered(1.0)
    for _ in range(2):
        bench.stand()
    with pytest.raises(OverloadedError, match="within its time"):
        bench.stand(left_s=0.5)

    hopeless = bench.stand(left_s=1.5)
    bench.now = 1.0
    bench.turns.leave()

    with pytest.raises(DeadlineError):
        hopeless.result(0)


def test_nobody_is_refused_for_what_was_usual_where_nobody_is_on_the_way(bench):
    """Else a line that was slow once would never find out that it no longer is."""
    for _ in range(40):
        bench.turns.answered(9.0)

    assert bench.stand(left_s=1.0).done()


def test_who_would_wait_too_long_hears_so_and_when_to_come_again():
    bench = Bench(ahead=1)
    bench.slow(each_s=0.5)
    bench.stand()
    for _ in range(2):
        assert bench.turns.refusal("a", 1000.0) is None
        bench.stand()

    error = bench.turns.refusal("a", 1000.0)

    assert error is not None
    assert (str(error), error.retry_after_s) == ("it would wait for 1.5 s", 1)
    assert bench.turns.refusal("other", 1000.0) is None, "its turn would come sooner"


def test_as_many_as_engines_want_at_hand_and_one_of_each_task_may_wait_however_slow_they_are():
    bench = Bench(ahead=4)
    bench.slow(each_s=1.1)
    for _ in range(5):
        bench.stand()

    with pytest.raises(OverloadedError):
        bench.stand()
    bench.turns.leave()
    assert bench.turns.waiting == 0
    bench.stand("other")


def test_who_leaves_the_line_takes_no_turn_and_gives_back_the_one_he_had(bench):
    first, second, third, fourth = (bench.stand() for _ in range(4))
    bench.turns.give_up(third)
    assert third.cancelled()

    bench.turns.give_up(first)

    assert fourth.done()
    assert second.done()
    bench.turns.check()


def test_one_that_was_refused_gives_back_no_turn(bench):
    for _ in range(2):
        bench.stand()
    late = bench.stand(left_s=1.0)
    bench.now = 2.0
    bench.turns.leave()
    bench.turns.give_up(late)

    bench.turns.check()
    assert not [bench.stand(), bench.stand()][1].done()


@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "leave", "go", "wait"]), st.integers(0, 5)), max_size=60
    )
)
def test_any_history_keeps_the_turns(steps):
    bench = Bench(room=6)
    open_, out = [], []
    for verb, n in steps:
        match verb:
            case "come":
                with suppress(OverloadedError):
                    open_.append(bench.stand("abcdef"[n], left_s=3.0))
            case "leave" if out:
                out.pop()
                bench.turns.leave()
            case "go" if open_:
                bench.turns.give_up(open_.pop(n % len(open_)))
            case "wait":
                bench.now += n
        for turn in [t for t in open_ if t.done()]:
            open_.remove(turn)
            if turn.exception() is None:
                out.append(turn)
        bench.turns.check()
        assert len(out) <= 2
        assert not open_ or len(out) == 2, "nobody waits while a turn is free"


def test_threads_may_share_it():
    turns = Turns(room=400, ahead=3, wait_s=60.0, at_hand=lambda: 0)
    most, inside, lock = [0], [0], threading.Lock()

    def one(i: int) -> None:
        turns.stand("abcd"[i % 4], 1e12).result(30)
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        with lock:
            inside[0] -= 1
        turns.leave()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(300)))

    assert most[0] <= 3
    assert turns.waiting == 0
    turns.check()
