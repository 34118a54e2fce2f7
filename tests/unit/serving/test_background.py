"""Work that nobody waits for: when it may run, and that it ends."""

import threading
from collections import deque

import pytest

from serving.background import Background
from serving.quiet import Quiet


@pytest.fixture
def chores():
    """A line of chores, and threads that do them."""
    line = deque()
    background = Background(lambda: line.popleft() if line else None, threads=2)
    yield line, background
    background.close()


def test_chores_that_come_later_are_done_too(chores):
    line, background = chores
    for _ in range(20):
        done = threading.Event()
        line.append(done.set)
        background.wake()
        assert done.wait(10)


def test_a_chore_that_fails_does_not_end_the_others(chores):
    line, background = chores
    done = threading.Event()

    def fail():
        raise RuntimeError

    line.extend([fail, fail, fail, done.set])
    background.wake()

    assert done.wait(10)


def test_not_finding_a_chore_ends_no_thread(monkeypatch, caplog):
    monkeypatch.setattr("serving.background._REST_S", 0.01)
    done = threading.Event()
    line = deque([RuntimeError, MemoryError, RuntimeError])

    def find():
        if line:
            raise line.popleft()
        return None if done.is_set() else done.set

    background = Background(find, threads=1)
    background.wake()

    assert done.wait(10)
    background.close()
    assert [r.message for r in caplog.records] == ["no chore could be found"] * 3


def test_closing_ends_a_rest_and_leaves_no_thread():
    before = set(threading.enumerate())
    begun = threading.Event()
    line = deque([lambda: (begun.set(), background.rest(3600))])
    background = Background(lambda: line.popleft() if line else None, threads=2)
    background.wake()
    assert begun.wait(10)

    background.close()
    background.wake()

    assert set(threading.enumerate()) <= before


def test_one_who_waits_for_quiet_waits_until_the_last_has_ended():
    quiet, over = Quiet(), threading.Event()
    quiet.begin(2)
    waiting = threading.Thread(
        target=lambda: (quiet.wait(0.0, 3600.0, lambda: False), over.set()), daemon=True
    )
    waiting.start()
    quiet.end()
    assert not over.wait(0.1)

    quiet.end()

    assert over.wait(10)
    quiet.check()


def test_waiting_for_quiet_ends_when_it_makes_no_sense_any_more():
    quiet, asked = Quiet(), []
    quiet.begin()

    quiet.wait(0.0, 3600.0, lambda: bool(asked) or asked.append(1))

    assert asked == [1]


def test_patience_ends():
    quiet = Quiet()
    quiet.begin()

    quiet.wait(3600.0, 0.01, lambda: False)


def test_more_ends_than_begins_are_noticed():
    quiet = Quiet()
    quiet.end()

    with pytest.raises(AssertionError):
        quiet.check()
