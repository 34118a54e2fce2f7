"""Data sets by name: found where they lie, read as released, or refused with what lacks."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from training.errors import DataInvalidError, LayoutUnknownError
from training.presets import FGVC, LAYOUTS, open_data, open_split


@pytest.fixture
def preprocess(tiny):
    """Of the tiny backbone: 32 pixels, squashed."""
    return tiny.spec.preprocess()


def dot() -> bytes:
    """The smallest picture."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1), (9, 5, 2)).save(file, "PNG")
    return file.getvalue()


DOT = dot()


def put(file) -> None:
    """A picture at this place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(DOT)


def vtab(root, classes: int):
    """A folder as a release of VTAB-1k has it, with an image of every class in every split."""
    for split in ("train800", "val200", "test"):
        paths = [f"images/{split}/{n:06}.jpg" for n in range(classes)]
        for path in paths:
            put(root / path)
        text = "".join(f"{path} {label}\n" for label, path in enumerate(paths))
        (root / f"{split}.txt").write_text(text)
    return root


def fine_grained(root, name: str):
    """A folder with the images and the lists of VPT: two of each class to train on, one to test."""
    own = FGVC[name]
    for split, numbers in {"train": (0, 1), "test": (2,)}.items():
        table = {f"{c:03}/{n}.jpg": c for c in range(1, own.classes + 1) for n in numbers}
        for path in table:
            put(root / own.images / path)
        (root / f"{split}.json").write_text(json.dumps(table))
    return root


def test_nineteen_tasks_and_five_data_sets_are_known():
    """By the names of the command line."""
    assert len(LAYOUTS) == len(set(LAYOUTS)) == 24


@pytest.mark.parametrize("at", ["", "cifar", "cifar100", "vtab-1k/cifar"])
def test_a_task_is_found_in_its_folder_and_under_it(at, tmp_path, preprocess):
    """Whether the folder, the one above it or the one above that is given."""
    vtab(tmp_path / at, 100)

    data = open_data(tmp_path, preprocess, layout="vtab:cifar")

    assert len(data.classes) == 100
    assert {n: len(s.labels) for n, s in data.splits.items()} == dict.fromkeys(
        ("train", "val", "test"), 100
    )


MANY = [name for name, own in FGVC.items() if own.classes > 150]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in MANY else n for n in FGVC]
)
def test_fine_grained_data_sets_run_as_soon_as_they_are_there(name, tmp_path, preprocess):
    """A tenth of train, and at least one image of each class of two, is val."""
    fine_grained(tmp_path / FGVC[name].folders[0], name)

    data = open_data(tmp_path, preprocess, layout=f"fgvc:{name}", augment="crop_flip")

    count = FGVC[name].classes
    assert data.classes[0] == "001"
    assert {n: len(s.labels) for n, s in data.splits.items()} == dict.fromkeys(
        ("train", "val", "test"), count
    )
    assert data.train.wide.shape == (count, 3, 37, 37)


def test_what_lacks_is_named(tmp_path, preprocess):
    """The folder, the lists, one list, the images, classes."""

    def refused(layout, place=tmp_path) -> str:
        with pytest.raises(DataInvalidError) as caught:
            open_data(place, preprocess, layout=layout)
        return str(caught.value)

    assert "no such folder" in refused("vtab:svhn", tmp_path / "nowhere")
    assert "no train800.txt" in refused("vtab:svhn")
    assert "vtab-1k/svhn/" in refused("vtab:svhn")
    assert "no train.json" in refused("fgvc:dogs")
    assert "neither a folder train/ nor a list train800.txt" in refused(None)
    root = vtab(tmp_path / "svhn", 10)
    assert "the label 9 is none of 0 … 4" in refused("vtab:diabetic_retinopathy", root)
    (root / "test.txt").unlink()
    assert "there is no test.txt" in refused("vtab:svhn")
    (tmp_path / "train.json").write_text('{"a.jpg": 1, "b.jpg": 2}')
    assert "there is no test.json; there is no folder Images/" in refused("fgvc:dogs")
    (tmp_path / "test.json").write_text('{"c.jpg": 1}')
    assert "train has 2 classes, and the data set 196" in refused("fgvc:cars")


def test_without_a_layout_the_folder_says_what_it_is(write_folder, tmp_path, preprocess):
    """train/ makes it an image folder, a list to train on makes it lists."""
    assert open_data(write_folder({"train": 5}), preprocess).classes == ("bars", "checks", "dots")
    assert open_data(vtab(tmp_path / "lists", 3), preprocess).classes == ("0", "1", "2")
    with pytest.raises(DataInvalidError, match="no such folder"):
        open_data(tmp_path / "nowhere", preprocess)


@pytest.mark.parametrize("layout", ["vtab:mnist", "fgvc:planes", "svhn", ""])
def test_an_unknown_layout_is_refused(layout, tmp_path, preprocess):
    """With those that there are."""
    with pytest.raises(LayoutUnknownError, match="vtab:"):
        open_data(tmp_path, preprocess, layout=layout)


def test_one_split_is_read_in_the_order_of_an_adapters_labels(tmp_path, write_folder, preprocess):
    """Of lists as of folders; a label that the adapter does not have is refused."""
    root = vtab(tmp_path / "lists", 3)

    split, _ = open_split(root, "test", ("2", "0", "1"), preprocess)

    assert split.labels.tolist() == [1, 2, 0]
    with pytest.raises(DataInvalidError, match="'2' is no label"):
        open_split(root, "test", ("0", "1"), preprocess)
    with pytest.raises(DataInvalidError, match="no split 'more'"):
        open_split(root, "more", ("0", "1", "2"), preprocess)
    pictures = write_folder({"train": 2, "test": 1})
    own, _ = open_split(pictures, "test", ("dots", "bars", "checks"), preprocess)
    assert own.labels.tolist() == [0, 1, 2]
    assert np.unique(own.images).size > 1


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("has_val", [True, False], ids=["with a val list", "val parted from train"])
def test_one_split_of_lists_is_the_same_as_among_all(split, has_val, tmp_path, preprocess):
    """Though no other is decoded: pictures of the others may be broken."""
    root = vtab(tmp_path / "lists", 3)
    if not has_val:
        val = (root / "val200.txt").read_text()
        with (root / "train800.txt").open("a") as train:
            train.write(val)
        (root / "val200.txt").unlink()
    whole = open_data(root, preprocess)
    other = "test" if split != "test" else "train800"
    for path in (root / "images" / other).iterdir():
        path.write_bytes(b"no picture")

    alone, skipped = open_split(root, split, whole.classes, preprocess)

    assert skipped == ()
    assert alone.labels.tolist() == whole.splits[split].labels.tolist()
    assert np.array_equal(alone.images, whole.splits[split].images)
