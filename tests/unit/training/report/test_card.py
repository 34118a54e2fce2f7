"""The model card and the folder around it."""

import json

import pytest

from training.report.card import card
from training.report.folder import write


def test_the_card_says_what_a_reader_must_know(make_facts):
    text = card(make_facts())

    assert text.startswith("# pets: lora on vit\n")
    for part in ("1,234", "95 % confidence", "calibration error", "none of these", "d" * 64):
        assert part in text
    for picture in ("curves.png", "confusion.png", "mistakes.png"):
        assert f"]({picture})" in text


def test_a_strangers_words_stay_words(make_facts):
    text = card(make_facts(classes=("a|b", "<b>*x*</b>"), skipped=("train/[x](y).png: no",)))

    assert "| a\\|b |" in text
    assert "\\<b\\>\\*x\\*\\</b\\>" in text
    assert "\\[x\\](y)" in text


def test_seeds_and_the_search_are_told(make_facts):
    protocol = {
        "points": [{"lr": 0.1, "val_accuracy": 0.5}, {"lr": 1.0, "val_accuracy": None}],
        "chosen": 0,
        "search_seed": 0,
        "seeds": [0, 1],
        "trained_on": "train+val",
    }

    text = card(make_facts(protocol=protocol, tests=(0.5, 0.7)))

    assert "Over 2 seeds: 60.00 % ± 14.14" in text
    assert "| 0.1 | 50.00 % | chosen |" in text
    assert "| 1.0 | diverged |  |" in text
    assert "no test image was read meanwhile" in text
    assert "trained on training and validation images together" in text


def test_validation_images_that_were_not_there_are_not_claimed(make_facts):
    text = card(make_facts(protocol={"seeds": [0], "trained_on": "train"}))

    assert "Then trained on the training images, seed 0" in text
    assert "validation images together" not in text


@pytest.mark.parametrize("classes", [31, 200])
def test_of_many_classes_those_found_least_are_listed(make_facts, classes):
    text = card(make_facts(classes=tuple(f"c{at}" for at in range(classes))))

    assert f"The 30 of {classes} classes that are found least" in text


def test_numbers_that_flatter_are_called_so(make_facts, make_answers):
    from dataclasses import replace

    val = replace(make_answers(2), split="val")

    assert "flatters" in card(make_facts(answers=val, tests=()))


def test_the_folder_is_complete_and_its_own_files_stay(make_facts, tmp_path):
    folder = tmp_path / "deep" / "pets.report"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")

    write(folder, make_facts(trials=({"settings": {}, "val_accuracy": 0.5},)), {"host": "here"})

    assert {file.name for file in folder.iterdir()} == {
        *("README.md", "metrics.jsonl", "curves.png", "confusion.png", "mistakes.png"),
        *("run.json", "notes.txt"),
    }
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["search", "train"]
    assert rows[1]["seed"] == 0
    assert json.loads((folder / "run.json").read_text())["host"] == "here"
    assert "here" not in (folder / "README.md").read_text()
