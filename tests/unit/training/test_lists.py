"""List files: read as the releases write them, or refused with what is wrong."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from adapters_store.pixels import pixels
from training import lists
from training.decoding import How
from training.errors import DataInvalidError
from training.lists import JSONS, Wanted, parse


@pytest.fixture
def how(tiny):
    """Of the tiny backbone: 32 pixels, squashed."""
    return How(preprocess=tiny.spec.preprocess())


@pytest.fixture
def write(tmp_path):
    """Writes lists and the pictures that they name; a line's label says what it shows."""

    def files(**rows):
        for name, lines in rows.items():
            for number, (path, label) in enumerate(lines):
                file = tmp_path / path
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (9, 7), (90 * int(label) % 256, number, 0)).save(file, "PNG")
            text = "".join(f"{path} {label}\n" for path, label in lines)
            (tmp_path / f"{name}.txt").write_text(text)
        return tmp_path

    return files


def rows(split: str, labels: str) -> list[tuple[str, str]]:
    """Lines as the releases have them: a path and a number."""
    return [(f"images/{split}/{n:06}.jpg", label) for n, label in enumerate(labels)]


def refused(root, how, **more) -> str:
    """What is refused, and why."""
    with pytest.raises(DataInvalidError) as caught:
        lists.read(root, how, **more)
    return str(caught.value)


def test_vtabs_lists_are_read_split_by_split(write, how):
    """In the order of their lines; the list of all thousand is not needed beside the two."""
    root = write(
        train800=rows("train800", "0120"),
        val200=rows("val200", "21"),
        train800val200=rows("train800val200", "012021"),
        test=rows("test", "012"),
    )

    data = lists.read(root, how)

    assert data.classes == ("0", "1", "2")
    assert {n: s.labels.tolist() for n, s in data.splits.items()} == {
        "train": [0, 1, 2, 0],
        "val": [2, 1],
        "test": [0, 1, 2],
    }
    first = pixels((root / "images/train800/000000.jpg").read_bytes(), how.preprocess)
    np.testing.assert_array_equal(data.train.images[0], first)


def test_the_list_of_all_thousand_alone_is_parted(write, how):
    """A seeded fifth of it is val, whatever a list of val may say."""
    root = write(
        train800val200=rows("train800val200", "0011" * 5), val200=rows("train800val200", "00")
    )

    data = lists.read(root, how)

    assert {n: len(s.labels) for n, s in data.splits.items()} == {"train": 16, "val": 4}


def test_paths_may_hold_spaces_and_labels_may_be_words(write, how, tmp_path):
    """The last word of a line is the label; words are put in order."""
    root = write(test=[("my pictures/one.jpg", "1"), ("my pictures/two.jpg", "2")])
    (root / "test.txt").write_text("my pictures/one.jpg  wren\n")
    (root / "train.txt").write_text("my pictures/two.jpg\twren\nmy pictures/../gull.jpg gull\n\n")
    (root / "gull.jpg").write_bytes((root / "my pictures/two.jpg").read_bytes())

    data = lists.read(root, how)

    assert data.classes == ("gull", "wren")
    assert data.splits["test"].labels.tolist() == [1]


def test_names_of_classes_may_stand_beside_the_lists(write, how):
    """One a line, in the order of the labels."""
    root = write(train=rows("train", "0101"))
    (root / "labels.txt").write_text("gull\nwren\n")

    assert lists.read(root, how).classes == ("gull", "wren")


def test_an_image_in_two_splits_is_refused(write, how):
    """Else what was trained on is measured on."""
    root = write(train=[("a.jpg", "0"), ("b.jpg", "1")], test=[("./b.jpg", "1")])

    assert "b.jpg is listed in test.txt and train.txt" in refused(root, how)


def test_bad_files_are_left_out_or_refused(write, how):
    """A file that is not there is one of them."""
    root = write(train=rows("train", "010101"), val=rows("val", "01"))
    (root / "images/train/000000.jpg").unlink()
    (root / "images/val/000001.jpg").write_bytes(b"x")

    data = lists.read(root, how)

    assert [line.partition(": ")[0] for line in data.skipped] == [
        "images/train/000000.jpg",
        "images/val/000001.jpg",
    ]
    assert {n: len(s.labels) for n, s in data.splits.items()} == {"train": 5, "val": 1}
    text = refused(root, How(preprocess=how.preprocess, strict=True))
    assert all(line.partition(": ")[0] in text for line in data.skipped)


def test_a_split_that_is_left_without_images_is_refused(write, how):
    """With the files that were not read."""
    root = write(train=rows("train", "0101"), test=rows("test", "01"))
    for number in range(2):
        (root / f"images/test/00000{number}.jpg").unlink()

    text = refused(root, how)

    assert "test has no image that can be read" in text
    assert "images/test/000001.jpg: No such file" in text


def test_malformed_and_missing_lists_are_named(write, how, tmp_path):
    """Line by line, list by list."""
    root = write(train=rows("train", "01"))

    assert "no such folder" in refused(tmp_path / "nowhere", how)
    assert "there is no test.txt" in refused(root, how, wanted=Wanted(test=True))
    assert "there is no folder Images/" in refused(root, how, wanted=Wanted(images="Images"))
    (root / "test.txt").write_text("a.jpg 0\nb.jpg\n")
    (root / "val.txt").write_text("\n")
    text = refused(root, how)
    assert "test.txt: line 2 is no path and label" in text
    assert "val.txt: it lists no image" in text


def test_labels_beyond_the_classes_that_are_known_are_refused(write, how):
    """The preset knows better than the lists."""
    root = write(train=rows("train", "017"))

    assert "the label 7 is none of 0 … 2" in refused(root, how, wanted=Wanted(classes=3))
    assert "two classes" in refused(write(train=rows("train", "00")), how)


def test_json_lists_are_read_by_the_rank_of_their_labels(write, how):
    """As VPT writes them for FGVC: a path from the folder of images to a number from one."""
    root = write(all=[(f"images/{c}.bird/{n}.jpg", str(c)) for c in (1, 2) for n in range(12)])
    for split, numbers in {"train": range(10), "test": (10, 11)}.items():
        table = {f"{c}.bird/{n}.jpg": c for c in (1, 2) for n in numbers}
        (root / f"{split}.json").write_text(json.dumps(table))
    wanted = Wanted(classes=2, test=True, images="images", val_share=0.1)

    data = lists.read(root, how, files=JSONS, wanted=wanted)

    assert data.classes == ("1.bird", "2.bird")
    assert {n: len(s.labels) for n, s in data.splits.items()} == {"train": 18, "val": 2, "test": 4}
    (root / "test.json").write_text("[1]")
    assert "test.json: it is no JSON object" in refused(root, how, files=JSONS)
    (root / "test.json").write_text("{")
    assert "test.json: it is no JSON" in refused(root, how, files=JSONS)


def test_lines_are_parsed_without_a_file():
    """What is wrong is counted by line."""
    assert parse("a b.jpg 3\n\n  c.jpg\t0  \nd\n") == (
        [("a b.jpg", "3"), ("c.jpg", "0")],
        ["line 4 is no path and label"],
    )


def test_names_that_are_no_utf8_are_refused(write, how):
    """In one line, with the file."""
    root = write(train=rows("train", "0101"))
    (root / "labels.txt").write_bytes(b"gull\nwr\xffn\n")

    assert "labels.txt" in refused(root, how)


def test_what_is_no_file_is_left_out_and_waited_for_by_nobody(write, how):
    """A name with a NUL in it, a pipe, a folder."""
    root = write(train=rows("train", "0101"))
    os.mkfifo(root / "pipe.jpg")
    (root / "train.txt").write_text(
        (root / "train.txt").read_text() + "a\0b.jpg 0\npipe.jpg 1\nimages 0\n"
    )

    data = lists.read(root, how)

    assert len(data.skipped) == 3
    assert data.skipped[1:] == (
        "pipe.jpg: it is no regular file",
        "images: it is no regular file",
    )
