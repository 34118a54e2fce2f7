"""Places: whatever comes and goes, the books hold and nobody takes all."""

from hypothesis import given
from hypothesis import strategies as st

from serving.places import Places


def filled(places: Places, task: str) -> int:
    """How many places a task gets that takes what it can."""
    count = 0
    while places.take(task):
        count += 1
    return count


def test_one_task_alone_gets_most_of_the_room_and_never_all():
    places = Places(100)

    assert filled(places, "hot") == 80
    assert filled(places, "other") == 16
    places.check()


def test_hot_tasks_share_and_the_next_still_gets_in():
    places = Places(100)
    taken = dict.fromkeys("abcd", 0)
    for _ in range(200):
        for task in taken:
            taken[task] += places.take(task)

    assert max(taken.values()) - min(taken.values()) <= 1
    assert places.take("next")


def test_the_smallest_room_takes_one():
    assert filled(Places(1), "a") == 1


def test_who_has_more_than_others_crowds_them_and_nobody_crowds_alone():
    places = Places(100)
    for _ in range(10):
        places.take("hot")
    assert not places.crowds("hot")

    places.take("rare")

    assert places.crowds("hot")
    assert not places.crowds("rare")
    assert not places.crowds("nobody")


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=80), st.integers(1, 12))
def test_any_history_keeps_the_count(steps, room):
    places, inside = Places(room), []
    for come, task in steps:
        if come:
            taken = places.take(task)
            assert taken or inside
            inside += [task] * taken
        elif task in inside:
            places.give(task)
            inside.remove(task)
        places.check()
    assert len(inside) <= room
