"""How fast a line moves: measured only while somebody waits, and forgotten after a while."""

import pytest

from serving.pace import Pace, Usual, retry_after_s


def test_only_time_that_somebody_waited_through_counts():
    pace = Pace()
    for now, waiting in ((0.0, True), (0.5, True), (1.0, False), (60.0, True), (60.5, False)):
        pace.turn(now, waiting=waiting)

    assert pace.each_s(60.5) == pytest.approx(0.5)


def test_turns_that_come_by_batches_are_averaged():
    pace = Pace()
    for batch in range(200):
        for _ in range(4):
            pace.turn(float(batch), waiting=True)

    assert pace.each_s(200.0) == pytest.approx(0.25, rel=0.15)


def test_who_left_the_line_makes_it_no_slower():
    pace = Pace()
    pace.turn(0.0, waiting=True)
    pace.rest()
    pace.turn(100.0, waiting=True)
    pace.turn(100.1, waiting=False)

    assert pace.each_s(100.1) == pytest.approx(0.1)


def test_a_line_that_was_slow_once_is_not_thought_slow_for_ever():
    pace = Pace()
    pace.turn(0.0, waiting=True)
    pace.turn(9.0, waiting=False)

    assert pace.each_s(10.0) == 9.0
    assert pace.each_s(20.0) == 0.0


def test_most_take_less_than_is_usual_and_one_that_took_for_ever_changes_little():
    usual = Usual()
    for i in range(400):
        usual.note(0.1 + 0.1 * (i % 5), 0.0)
    found = usual.value(0.0)
    assert 0.3 < found < 0.5

    usual.note(30.0, 0.0)

    assert usual.value(0.0) < 2 * found
    assert usual.value(9.0) == 0.0


def test_those_who_were_refused_together_do_not_come_back_together():
    told = {retry_after_s(2.0, dice / 100) for dice in range(100)}

    assert told == {1, 2, 3, 4, 5}
    assert retry_after_s(0.0, 0.99) == 1
    assert retry_after_s(1e6, 0.99) == 30
