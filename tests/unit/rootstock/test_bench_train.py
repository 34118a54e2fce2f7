"""`bench train`: who takes part, what a turn is, and rows that say it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from rootstock.bench.adapters import Choice
from rootstock.bench.stopwatch import Stopwatch
from rootstock.bench.trainees import ARMS, Course, turn_of
from rootstock.bench.weighing import WeighingError, weigh
from rootstock.main import app

CPU = torch.device("cpu")


@pytest.fixture
def course(tiny):
    """Two images a step, two steps after the first."""
    return Course(backbone=tiny, device=CPU, precision="fp32", batch=2, steps=2)


def test_the_first_step_is_not_timed():
    """What is built once is paid in it."""
    watch = Stopwatch(CPU)

    watch.step(1, 3)
    first = watch.seconds
    watch.step(2, 3)
    second = watch.seconds
    watch.step(3, 3)

    assert first == second == 0
    assert watch.seconds > 0


@pytest.mark.parametrize("system", ["full", "rootstock"])
def test_a_turn_trains_and_leaves_the_backbone_alone(course, system):
    """Again and again, by the same arm."""
    before = {name: p.clone() for name, p in course.backbone.net.named_parameters()}

    turn = turn_of(system, None if system == "full" else Choice.parse("alore"), course)

    assert turn() > 0
    assert turn() > 0
    for name, parameter in course.backbone.net.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.slow
@pytest.mark.parametrize("system", ["peft", "peft-plain"])
def test_peft_trains_as_many_numbers_in_the_same_places(course, system):
    """In both of its forms, with the network that was given left as it is."""
    before = [p.clone() for p in course.backbone.net.parameters()]

    assert turn_of(system, Choice.parse("lora"), course)() > 0

    now = course.backbone.net.parameters()
    assert all(torch.equal(one, two) for one, two in zip(now, before, strict=True))
    assert set(ARMS) == {"full", "rootstock", "peft", "peft-plain"}


@pytest.mark.slow
def test_a_process_that_cannot_weigh_says_why():
    """The last line of what it said, and no traceback."""
    place = {"backbone": "no_such_net", "weights": None, "dtype": "fp32", "device": "cpu"}

    with pytest.raises(WeighingError, match=r"memory of full .*no_such_net"):
        weigh("full", None, {**place, "threads": 1, "batch": 1})


@pytest.mark.slow
def test_every_arm_gets_a_row():
    """Full fine-tuning is what the others are compared with."""
    words = ["bench", "train", "--batch", "2", "--steps", "1", "--rounds", "1", "--json"]

    result = CliRunner().invoke(app, [*words, "--method", "lora", "--threads", "1"])

    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [r["system"] for r in rows] == ["full", "rootstock", "peft", "peft-plain"]
    assert (rows[0]["ratio"], rows[0]["memory_ratio"]) == (1.0, 1.0)
    assert rows[1]["against_peft"] > 0
    assert all(r["peak_bytes"] > 0 and r["images_per_s"] > 0 for r in rows)
    assert {r["bench"] for r in rows} == {"train"}
