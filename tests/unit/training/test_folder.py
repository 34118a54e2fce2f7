"""An image folder: read once and whole, or refused with everything that is wrong."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from adapters_store.pixels import pixels
from training import folder
from training.errors import DataInvalidError


@pytest.fixture
def preprocess(tiny):
    """Of the tiny backbone: 32 pixels, squashed."""
    return tiny.spec.preprocess()


def faults_of(root, preprocess, **how) -> str:
    """What is refused, and why."""
    with pytest.raises(DataInvalidError) as caught:
        folder.read(root, preprocess, **how)
    return str(caught.value)


def test_classes_are_the_sorted_folders_of_train(write_folder, preprocess):
    """And every image is where the one decoder puts it."""
    root = write_folder({"train": 2, "val": 1, "test": 1})

    data = folder.read(root, preprocess)

    assert data.classes == ("bars", "checks", "dots")
    assert {n: s.labels.tolist() for n, s in data.splits.items()} == {
        "train": [0, 0, 1, 1, 2, 2],
        "val": [0, 1, 2],
        "test": [0, 1, 2],
    }
    first = pixels((root / "train/bars/0.png").read_bytes(), preprocess)
    assert (data.train.images[0] == first).all()


def test_the_digest_is_of_names_bytes_and_labels_alone(write_folder, preprocess, tmp_path):
    """A copy elsewhere has the same digest; a changed or renamed file has another."""
    root = write_folder({"train": 3})
    copied = shutil.copytree(root, tmp_path / "elsewhere")
    digest = folder.read(root, preprocess).digest

    assert folder.read(copied, preprocess, seed=5).digest == digest
    (copied / "train/dots/0.png").rename(copied / "train/dots/9.png")
    assert folder.read(copied, preprocess).digest != digest
    (copied / "train/dots/9.png").rename(copied / "train/dots/0.png")
    shutil.copy(root / "train/bars/0.png", copied / "train/dots/0.png")
    assert folder.read(copied, preprocess).digest != digest


def test_without_val_a_seeded_fifth_of_train_is_val(write_folder, preprocess):
    """Stratified, and the same for the same seed."""
    root = write_folder({"train": 10})

    one, again, other = (folder.read(root, preprocess, seed=seed) for seed in (1, 1, 2))

    assert np.bincount(one.val.labels).tolist() == [2, 2, 2]
    assert np.bincount(one.train.labels).tolist() == [8, 8, 8]
    assert (one.val.images == again.val.images).all()
    assert (one.val.images != other.val.images).any()


def test_hidden_files_are_passed_over_and_links_followed(write_folder, preprocess, tmp_path):
    """Desktop litter is no image, and a linked image or class is one."""
    root = write_folder({"train": 2})
    (root / "train/.DS_Store").write_bytes(b"x")
    (root / "train/bars/.thumb").write_bytes(b"x")
    (root / "train/.cache").mkdir()
    (root / "train/bars/linked").symlink_to(root / "train/dots/0.png")
    (root / "train/dots").rename(tmp_path / "away")
    (root / "train/dots").symlink_to(tmp_path / "away")
    (root / "train/bars/linked").unlink()
    (root / "train/bars/linked").symlink_to(tmp_path / "away/0.png")

    data = folder.read(root, preprocess)

    assert data.classes == ("bars", "checks", "dots")
    assert sum(len(s.labels) for s in data.splits.values()) == 7


def test_an_unknown_extension_is_no_fault_when_it_decodes(write_folder, preprocess):
    """The bytes say what a file is, not its name."""
    root = write_folder({"train": 2})
    (root / "train/bars/0.png").rename(root / "train/bars/0.image")

    assert len(folder.read(root, preprocess).train.labels) == 3


@pytest.fixture
def spoilt(write_folder):
    """A folder with a text, a truncated picture and a dead link among its pictures."""
    root = write_folder({"train": 3, "val": 1})
    whole = (root / "train/bars/0.png").read_bytes()
    (root / "train/bars/notes.txt").write_text("not a picture")
    (root / "train/checks/cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "train/dots/gone.png").symlink_to(root / "nowhere")
    return root


BAD = ("train/bars/notes.txt", "train/checks/cut.png", "train/dots/gone.png")


def test_bad_files_are_listed_and_left_out(spoilt, preprocess):
    """One line each; what is left is read as if they had never been there."""
    data = folder.read(spoilt, preprocess)

    assert [line.partition(": ")[0] for line in data.skipped] == list(BAD)
    assert all(line.partition(": ")[2] for line in data.skipped)
    for name in BAD:
        (spoilt / name).unlink()
    clean = folder.read(spoilt, preprocess)
    assert clean.skipped == ()
    assert clean.digest == data.digest
    assert (clean.train.images == data.train.images).all()
    assert (clean.train.labels == data.train.labels).all()


def test_strict_refuses_every_bad_file_in_one_error(spoilt, preprocess):
    """All three are named."""
    text = faults_of(spoilt, preprocess, strict=True)

    for name in BAD:
        assert name in text
    assert "\n" not in text


def test_a_split_of_an_adapter_leaves_bad_files_out_too(spoilt, preprocess):
    """Unless it is asked to be strict."""
    labels = ("bars", "checks", "dots")

    split, skipped = folder.read_split(spoilt, "train", labels, preprocess)

    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(skipped) == len(BAD)
    with pytest.raises(DataInvalidError, match="cut"):
        folder.read_split(spoilt, "train", labels, preprocess, strict=True)


def test_a_class_that_is_left_without_images_is_refused(write_folder, preprocess):
    """The error says which class, and which files were not read."""
    root = write_folder({"train": 2})
    for number in range(2):
        (root / f"train/checks/{number}.png").write_bytes(b"x")

    text = faults_of(root, preprocess)

    assert "train/checks has no image that can be read" in text
    assert "train/checks/1.png" in text
    assert "train/bars" not in text


def test_a_split_that_is_left_without_images_is_refused(write_folder, preprocess):
    """An unreadable test split is no test split."""
    root = write_folder({"train": 2, "test": 1})
    for kind in ("bars", "checks", "dots"):
        (root / f"test/{kind}/0.png").write_bytes(b"x")

    assert "test has no image that can be read" in faults_of(root, preprocess)


def test_a_long_list_of_faults_is_cut(write_folder, preprocess):
    """The first faults are shown, the rest are counted."""
    root = write_folder({"train": 1})
    for number in range(30):
        (root / f"train/bars/{number}.txt").write_text("x")

    assert "and 10 more" in faults_of(root, preprocess, strict=True)


def test_crops_find_a_margin_around_train_and_val(write_folder, preprocess):
    """Read with it where the recipe wants crops, and the served pixels stay what they are."""
    root = write_folder({"train": 5, "test": 1})

    plain = folder.read(root, preprocess)
    data = folder.read(root, preprocess, augment="crop_flip")

    shapes = {n: None if s.wide is None else s.wide.shape for n, s in data.splits.items()}
    assert shapes == {"train": (12, 3, 37, 37), "val": (3, 3, 37, 37), "test": None}
    assert (data.train.images == plain.train.images).all()
    assert data.with_trainval().train.wide.shape == (15, 3, 37, 37)


def test_a_class_that_train_does_not_have_is_refused(write_folder, preprocess):
    """Whether it stands in val or in test."""
    root = write_folder({"train": 2, "test": 1})
    (root / "test/stripes").mkdir()
    (root / "val/rings").mkdir(parents=True)

    text = faults_of(root, preprocess)

    assert "test/stripes: 'stripes' is no class of train/" in text
    assert "val/rings: 'rings' is no class of train/" in text


def test_layouts_that_are_no_image_folder_say_what_one_is(write_folder, preprocess, tmp_path):
    """Missing, without train, with an empty class, with nested folders, with one class."""
    assert "no such folder" in faults_of(tmp_path / "missing", preprocess)
    assert "train/<class>/" in faults_of(write_folder({"test": 1}, name="a"), preprocess)
    assert "two classes" in faults_of(write_folder({"train": 2}, ("one",), "b"), preprocess)

    root = write_folder({"train": 1}, name="c")
    (root / "train/empty").mkdir()
    (root / "train/bars/more").mkdir()
    text = faults_of(root, preprocess)

    assert "train/empty holds no image" in text
    assert "train/bars/more is a folder" in text


def test_one_split_is_read_in_the_order_of_an_adapters_labels(write_folder, preprocess):
    """The labels decide, not the folders; classes without images are none the worse."""
    root = write_folder({"test": 2}, ("checks", "dots"))

    split, _ = folder.read_split(root, "test", ("dots", "bars", "checks"), preprocess)

    assert split.labels.tolist() == [0, 0, 2, 2]


def test_the_val_that_was_parted_from_train_can_be_found_again(write_folder, preprocess):
    """From the folder, the labels and the seed of the adapter."""
    root = write_folder({"train": 5})
    data = folder.read(root, preprocess, seed=7)

    val, _ = folder.read_split(root, "val", data.classes, preprocess, seed=7)

    assert (val.images == data.val.images).all()
    assert (val.labels == data.val.labels).all()


@pytest.mark.parametrize(("split", "labels"), [("test", "ab"), ("other", "ab"), ("val", ("bars",))])
def test_a_split_that_cannot_be_measured_is_refused(write_folder, preprocess, split, labels):
    """No such split, or classes the adapter does not know."""
    root = write_folder({"train": 2, "val": 1})

    with pytest.raises(DataInvalidError):
        folder.read_split(root, split, labels, preprocess)


def test_pictures_of_any_size_and_mode_are_brought_into_the_input_size(write_folder, preprocess):
    """Grey, transparent and oblong pictures among the others."""
    root = write_folder({"train": 2})
    Image.new("L", (50, 20), 7).save(root / "train/bars/grey.png")
    Image.new("RGBA", (9, 90), (1, 2, 3, 0)).save(root / "train/dots/clear.webp")

    assert folder.read(root, preprocess).train.images.shape[1:] == (3, 32, 32)


def test_names_that_are_no_utf8_can_be_written_where_they_are_told(write_folder, preprocess):
    """The line of a file that is left out goes into a report."""
    root = write_folder({"train": 2})
    (root / "train" / "bars" / os.fsdecode(b"\xff.png")).write_bytes(b"no picture")
    os.mkfifo(root / "train" / "bars" / "pipe.png")

    skipped = folder.read(root, preprocess).skipped

    assert len(skipped) == 2
    assert "\\udcff.png" in "".join(skipped).encode("utf-8").decode()
