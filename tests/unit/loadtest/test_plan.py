"""A plan follows from scenario and seed, and keeps what the scenario asks for."""

import numpy as np
import pytest

from loadtest.errors import ScenarioError
from loadtest.plan import UNKNOWN_TASKS, Want, make_plan
from tests.unit.loadtest.conftest import make_scenario

NAMES = ("a", "b", "c")
IMAGES = ("x.jpg", "y.jpg")


def planned(corrupt=0, **changes):
    arrivals = {"kind": "poisson", "rate": 300}
    return make_plan(make_scenario(**{"arrivals": arrivals, **changes}), NAMES, IMAGES, corrupt)


def test_the_same_seed_makes_the_same_plan():
    one, same, other = planned(), planned(), planned(seed=1)

    assert np.array_equal(one.at, same.at)
    assert np.array_equal(one.tasks, same.tasks)
    assert np.array_equal(one.image, same.image)
    assert not np.array_equal(one.tasks[:50], other.tasks[:50])


def test_drawing_one_thing_does_not_move_another():
    plain, hurried = planned(), planned(deadline_ms=50, images={"corrupt_share": 0.3})

    assert np.array_equal(plain.tasks, hurried.tasks)
    assert np.array_equal(plain.at, hurried.at)
    assert set(hurried.deadline_ms.tolist()) == {50.0}


def test_a_share_of_requests_has_a_deadline():
    plan = planned(deadline_ms=50, deadline_share=0.25)

    assert (plan.deadline_ms == 50).mean() == pytest.approx(0.25, abs=0.04)


def test_bad_images_come_in_their_share():
    plan = planned(corrupt=6, images={"corrupt_share": 0.1})

    bad = plan.want == Want.UNDECODABLE
    assert bad.mean() == pytest.approx(0.1, abs=0.03)
    assert (plan.image[bad] >= len(IMAGES)).all()
    assert (plan.image[~bad] < len(IMAGES)).all()


def test_unknown_tasks_come_in_their_share_and_have_names():
    plan = planned(tasks={"unknown_share": 0.2})

    strange = plan.want == Want.UNKNOWN
    assert strange.mean() == pytest.approx(0.2, abs=0.03)
    assert (plan.tasks[strange] >= plan.known).all()
    assert (plan.tasks[~strange] < plan.known).all()
    assert len(plan.names) == len(NAMES) + UNKNOWN_TASKS


def test_a_request_has_one_fault_at_most():
    plan = planned(corrupt=6, tasks={"unknown_share": 0.5}, images={"corrupt_share": 0.5})

    strange = (plan.tasks >= plan.known).any(axis=1)
    assert (strange | (plan.image >= len(IMAGES))).mean() > 0.6
    assert not (strange & (plan.image >= len(IMAGES))).any()


def test_more_tasks_a_request_than_there_are_is_refused():
    with pytest.raises(ScenarioError, match="fan_out is 4, tasks are 3"):
        planned(tasks={"fan_out": 4})


def test_more_requests_than_memory_holds_are_refused():
    with pytest.raises(ScenarioError, match="10,000,000"):
        planned(arrivals={"kind": "poisson", "rate": 1e8}, duration_s=1e6)


def test_a_trace_decides_when_which_task_and_which_image(tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text("at,task,image\n7.0,b,y.jpg\n5.0,a,x.jpg\n9.0,b,y.jpg\n")

    plan = planned(arrivals={"kind": "replay", "file": str(file), "speed": 2.0})

    assert plan.at.tolist() == [0.0, 1.0, 2.0]
    assert plan.tasks.ravel().tolist() == [0, 1, 1]
    assert plan.image.tolist() == [0, 1, 1]
    assert plan.effective == pytest.approx(np.exp(-(1 / 3) * np.log(1 / 3) - 2 / 3 * np.log(2 / 3)))


def test_a_trace_may_be_json_lines(tmp_path):
    file = tmp_path / "trace.jsonl"
    file.write_text('{"at": 0}\n{"at": 0.5}\n')

    plan = planned(arrivals={"kind": "replay", "file": str(file)})

    assert plan.at.tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("at,task\n1,zebra\n", "no task of this run: zebra"),
        ("at,task\nsoon,a\n", "line 2 has no number `at`"),
        ("at,task\nnan,a\n", "line 2 has no number `at`"),
        ("at,task\n1,a\n2,\n", "task is given in 1 of 2 lines"),
        ("", "it holds no request"),
    ],
)
def test_a_trace_that_cannot_be_replayed_says_why(tmp_path, text, fault):
    file = tmp_path / "trace.csv"
    file.write_text(text)

    with pytest.raises(ScenarioError, match=fault):
        planned(arrivals={"kind": "replay", "file": str(file)})


def test_a_popularity_trace_is_asked_for_in_its_order(tmp_path):
    file = tmp_path / "tasks.txt"
    file.write_text("c\na\na\n")

    plan = planned(tasks={"popularity": {"kind": "trace", "file": str(file)}})

    assert plan.tasks.ravel()[:6].tolist() == [2, 0, 0, 2, 0, 0]


def test_a_closed_loop_has_rows_to_go_round():
    plan = planned(arrivals={"kind": "closed", "clients": 3})

    assert len(plan) > 1000
    assert not plan.at.any()
