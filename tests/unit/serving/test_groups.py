"""What a door sends next: whatever comes in whatever order, the books hold."""

from hypothesis import given
from hypothesis import strategies as st

from serving.groups import Groups


def test_what_waits_while_groups_are_out_goes_together():
    groups = Groups(room=10, out_max=1, group_max=10)
    groups.offer("a", 1, 9.0)
    assert groups.next(0.0).batch == (1,)

    for item, task in enumerate("abab", 2):
        groups.offer(task, item, 9.0)

    assert groups.next(0.0).batch == (), "the one group that may be out is out"
    groups.back()
    assert sorted(groups.next(0.0).batch) == [2, 3, 4, 5]


def test_a_group_has_a_bound_and_the_rest_goes_in_the_next():
    groups = Groups(room=10, out_max=2, group_max=3)
    for item in range(5):
        groups.offer("a", item, 9.0)

    assert groups.next(0.0).batch == (0, 1, 2)
    assert groups.next(0.0).batch == (3, 4)
    assert groups.waiting == 0


def test_a_hot_task_does_not_fill_the_group_that_another_waits_for():
    groups = Groups(room=100, out_max=1, group_max=4)
    for item in range(50):
        groups.offer("hot", item, 9.0)
    groups.offer("rare", "mine", 9.0)

    assert "mine" in groups.next(0.0).batch


def test_what_is_late_does_not_travel_and_takes_no_group():
    groups = Groups(room=10, out_max=1, group_max=4)
    groups.offer("a", "late", 1.0)

    taken = groups.next(2.0)

    assert (taken.batch, taken.late, groups.out) == ((), ("late",), 0)


def test_what_waits_for_loads_takes_no_group_and_has_a_bound_of_its_own():
    groups = Groups(room=2, out_max=1, group_max=4)
    groups.offer("a", 1, 9.0)

    assert [groups.part() for _ in range(3)] == [True, True, False]
    assert groups.next(0.0).batch == (1,)
    groups.rejoin(2)
    assert groups.part()
    groups.check()


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from("abc"), st.integers(0, 20)),
        st.tuples(st.just("next"), st.integers(0, 20)),
        st.just(("back",)),
    ),
    max_size=60,
)


@given(steps=_STEPS, out_max=st.integers(1, 3), group_max=st.integers(1, 4))
def test_nothing_is_lost_nor_sent_twice(steps, out_max, group_max):
    groups = Groups(room=8, out_max=out_max, group_max=group_max)
    offered, gone, count = set(), [], 0
    for step in steps:
        match step:
            case ("offer", task, deadline):
                count += 1
                if groups.offer(task, count, float(deadline)):
                    offered.add(count)
            case ("next", now):
                before = groups.out
                taken = groups.next(float(now))
                assert len(taken.batch) <= group_max
                assert groups.out == before + bool(taken.batch)
                gone += [*taken.batch, *taken.late]
            case ("back",) if groups.out:
                groups.back()
        groups.check()
        assert len(offered) == len(gone) + groups.waiting
    while groups.waiting:
        gone += groups.next(0.0).batch
        groups.out = 0
    assert sorted(gone) == sorted(offered)
