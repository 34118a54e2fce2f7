"""The batcher's thread: pulls when free, refuses what is hopeless, ends everything it began."""

import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest

from serving.batcher import Batcher
from serving.errors import ClosingError, DeadlineError, OverloadedError
from serving.types import Answer, Path, Route, Sample

PIXELS = np.zeros((3, 1, 1), np.uint8)


def sample(task="a", budget_s=10.0, *, head_only=False) -> Sample:
    """A sample of a task."""
    route = Route(task=task, release=1, digest=task * 64)
    return Sample(route=route, pixels=PIXELS, budget_s=budget_s, head_only=head_only)


class Bench:
    """Computes batches and remembers them; can be held up by a gate."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, samples):
        self.entered.set()
        assert self.gate.wait(10)
        self.batches.append([s.route.task for s in samples])
        return [
            ValueError(s.route.task)
            if s.route.task == "bad"
            else Answer(
                logits=np.zeros(1, np.float32), path=Path.MIXED, compute_s=0.0, batch=len(samples)
            )
            for s in samples
        ]


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def batcher(bench):
    batcher = Batcher(bench, queue_max=8, batch_max=4, cost_s=lambda n: 0.0)
    yield batcher
    bench.gate.set()
    batcher.close()


def held_up(bench, batcher):
    """Keep the engine busy with one sample, so that what follows has to wait."""
    bench.gate.clear()
    first = batcher.submit(sample("first"))
    assert bench.entered.wait(10)
    return first


def test_an_idle_engine_takes_a_sample_at_once(bench, batcher):
    answer = batcher.submit(sample()).result(10)

    assert answer.batch == 1
    assert answer.queue_s < 1.0


def test_what_gathers_while_the_engine_is_busy_becomes_one_mixed_batch(bench, batcher):
    held_up(bench, batcher)
    rest = [batcher.submit(sample(t)) for t in ("a", "a", "a", "b")]
    bench.gate.set()
    wait(rest, 10)

    assert bench.batches == [["first"], ["a", "b", "a", "a"]]


def test_a_full_queue_refuses_at_once(bench, batcher):
    held_up(bench, batcher)
    waiting = [batcher.submit(sample()) for _ in range(8)]

    with pytest.raises(OverloadedError):
        batcher.submit(sample())

    bench.gate.set()
    assert all(f.result(10) for f in waiting)


def test_a_hopeless_sample_is_refused_without_compute(bench, batcher):
    held_up(bench, batcher)
    hopeless = batcher.submit(sample("late", budget_s=0.01))
    time.sleep(0.05)
    bench.gate.set()

    with pytest.raises(DeadlineError):
        hopeless.result(10)
    assert ["late"] not in bench.batches


def test_one_sample_that_fails_leaves_its_companions_alone(bench, batcher):
    held_up(bench, batcher)
    good, bad = batcher.submit(sample("good")), batcher.submit(sample("bad"))
    bench.gate.set()

    assert good.result(10).batch == 2
    with pytest.raises(ValueError, match="bad"):
        bad.result(10)


def test_a_batch_that_fails_fails_all_its_samples_and_not_the_thread():
    def broken(samples):
        raise RuntimeError("no memory")

    batcher = Batcher(broken, queue_max=8, batch_max=4, cost_s=lambda n: 0.0)

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no memory"):
            batcher.submit(sample()).result(10)
    batcher.close()


def test_a_sample_that_was_given_up_is_not_computed(bench, batcher):
    held_up(bench, batcher)
    given_up, kept = batcher.submit(sample("gone")), batcher.submit(sample("kept"))
    assert given_up.cancel()
    bench.gate.set()
    kept.result(10)

    assert ["kept"] in bench.batches


def test_closing_answers_what_waits_and_refuses_the_rest(bench, batcher):
    held_up(bench, batcher)
    waiting = batcher.submit(sample())
    closer = threading.Thread(target=batcher.close)
    closer.start()
    time.sleep(0.05)

    with pytest.raises(ClosingError):
        batcher.submit(sample())

    bench.gate.set()
    closer.join(10)
    assert waiting.result(0).batch == 1
    assert not closer.is_alive()


def test_a_late_sample_that_was_given_up_does_not_end_the_thread(bench, batcher):
    held_up(bench, batcher)
    late = batcher.submit(sample("late", budget_s=0.01))
    assert late.cancel()
    time.sleep(0.05)
    bench.gate.set()

    assert batcher.submit(sample()).result(10).batch == 1
    assert batcher.stuck_s() < 5


def test_heads_of_one_picture_take_one_place_in_line_and_in_the_batch(bench, batcher):
    held_up(bench, batcher)
    heads = [sample(f"head-{i}", head_only=True) for i in range(6)]
    rest = batcher.submit_all([sample("a"), *heads, sample("b"), sample("c")])

    assert batcher.waiting == 4
    bench.gate.set()
    wait(rest, 10)
    assert sorted(bench.batches[1]) == ["a", "b", "c", *(f"head-{i}" for i in range(6))]


def test_of_several_that_come_together_those_without_room_are_refused(bench, batcher):
    held_up(bench, batcher)
    futures = batcher.submit_all([sample(f"t{i}") for i in range(10)])
    bench.gate.set()

    wait(futures, 10)
    assert [isinstance(f.exception(), OverloadedError) for f in futures] == 8 * [False] + 2 * [True]
