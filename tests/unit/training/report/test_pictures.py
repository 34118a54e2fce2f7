"""Pictures of a report: they exist, fit, and are the same each time."""

import pytest
from PIL import Image

from training.report import confused, curves, mistakes
from training.report.canvas import fitted, inches
from training.report.measures import confusion
from training.watch import Epoch

LONG = "a moderately defective cell with cracks near the second busbar"


def size(file):
    with Image.open(file) as picture:
        picture.load()
        return picture.size


@pytest.mark.parametrize("classes", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_a_confusion_matrix_grows_with_its_classes(tmp_path, make_answers, classes):
    names = [f"{LONG} {at}" for at in range(classes)]
    file = tmp_path / "confusion.png"

    confused.draw(file, "title", names, confusion(make_answers(classes)))

    width, height = size(file)
    assert min(width, height) > 300
    assert max(width, height) < 1200
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_of_very_many_classes_the_hardest_are_drawn(tmp_path, make_answers):
    file = tmp_path / "confusion.png"
    names = [f"c{at}" for at in range(confused.CLASSES_MOST + 1)]

    confused.draw(file, "title", names, confusion(make_answers(len(names))))

    assert max(size(file)) < 1500


def test_the_same_answers_give_the_same_bytes(tmp_path, make_answers):
    for name in ("a.png", "b.png"):
        mistakes.draw(tmp_path / name, "title", ["$1_x", "花"], make_answers(2))

    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_without_a_mistake_the_sheet_says_so(tmp_path, make_answers):
    file = tmp_path / "mistakes.png"

    mistakes.draw(file, "title", ["a", "b"], make_answers(2, flawless=True))

    assert size(file)[1] < 200


def test_curves_of_several_seeds_are_drawn_with_and_without_val(tmp_path):
    def log(val):
        return [
            Epoch(
                epoch=at,
                epochs=2,
                lr=1,
                loss=1 / at,
                train_accuracy=0.5,
                val_accuracy=val,
                seconds=1,
            )
            for at in (1, 2)
        ]

    curves.draw(tmp_path / "one.png", "title", {0: log(0.5)})
    curves.draw(tmp_path / "many.png", "title", {0: log(None), 1: log(None)})

    assert size(tmp_path / "one.png") == size(tmp_path / "many.png")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "many.png").read_bytes()


def test_a_long_name_keeps_its_ends_and_fits():
    short = fitted(LONG, 8, 1.5)

    assert inches(short, 8) <= 1.5
    assert short.startswith("a mod")
    assert short.endswith("sbar")
    assert fitted("cat", 8, 1.5) == "cat"
