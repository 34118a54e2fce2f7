"""The fair queue: nothing lost, nobody starved, late ones told apart."""

from hypothesis import given
from hypothesis import strategies as st

from serving.queue import FairQueue

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from("abc"), st.integers(0, 9)),
        st.tuples(st.just("take"), st.integers(1, 5), st.integers(0, 9)),
    ),
    max_size=60,
)


@given(STEPS)
def test_any_history_keeps_every_entry_once(steps):
    queue = FairQueue(10)
    waiting, number = {}, 0
    for verb, what, when in steps:
        if verb == "offer":
            number += 1
            assert queue.offer(what, number, when) == (len(waiting) < 10)
            if len(waiting) < 10:
                waiting[number] = when
        else:
            taken = queue.take(what, when)
            assert len(taken.batch) <= what
            assert all(waiting[n] >= when for n in taken.batch)
            assert all(waiting[n] < when for n in taken.late)
            for n in (*taken.batch, *taken.late):
                del waiting[n]
        queue.check()
        assert len(queue) == len(waiting)


@given(st.integers(1, 50), st.integers(1, 20))
def test_a_hot_task_cannot_starve_another(hot, most):
    queue = FairQueue(1000)
    for i in range(hot):
        queue.offer("hot", ("hot", i), 1.0)
    queue.offer("cold", ("cold", 0), 1.0)

    first = queue.take(most, 0.0).batch
    second = queue.take(most, 0.0).batch

    assert ("cold", 0) in (*first, *second)[:2]


def test_one_task_is_served_in_order():
    queue = FairQueue(10)
    for i in range(5):
        queue.offer("a", i, 1.0)

    assert queue.take(3, 0.0).batch == (0, 1, 2)
    assert queue.take(3, 0.0).batch == (3, 4)


def test_late_entries_take_no_place_in_the_batch():
    queue = FairQueue(10)
    for i in range(4):
        queue.offer("a", i, 0.0 if i < 2 else 9.0)

    taken = queue.take(2, 5.0)

    assert taken.late == (0, 1)
    assert taken.batch == (2, 3)
