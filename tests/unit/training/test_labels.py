"""Labels of lists: numbers that count classes, or names and numbers that are put in order."""

import pytest

from adapters_store.manifest import LABELS_MAX
from training.labels import counted, ranked


def test_numbers_are_the_rows_of_the_head():
    """The greatest of all splits says how many there are, unless that is known."""
    lines = {"train": [("a", "0"), ("b", "2")], "test": [("c", "3")]}

    classes, faults = counted(lines, None, None)

    assert (classes.names, faults) == (("0", "1", "2", "3"), [])
    assert counted(lines, 5, "vwxyz")[0].names == ("v", "w", "x", "y", "z")


def test_labels_out_of_range_and_words_are_faults():
    """Each is named."""
    _, faults = counted({"train": [("a", "0"), ("b", "7"), ("c", "cat")]}, 3, None)

    assert faults == ["the label 'cat' is no number", "the label 7 is none of 0 … 2"]


def test_names_for_other_classes_are_a_fault():
    """A file of names belongs to these lists or it does not."""
    assert counted({"train": [("a", "0")]}, 3, "ab")[1] == ["2 classes have names, and there are 3"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [(("10", "9", "2"), ("2", "9", "10")), (("b", "a", "10"), ("10", "a", "b"))],
)
def test_other_labels_are_put_in_their_own_order(labels, names):
    """Numbers by size, words by letters; where the numbers begin does not matter."""
    classes, faults = ranked({"train": [(f"{label}.jpg", label) for label in labels]}, 3)

    assert (classes.names, faults) == (names, [])
    assert classes.position == {name: at for at, name in enumerate(names)}


def test_a_folder_for_each_class_names_it():
    """And nothing but such a folder."""
    birds = [("1.Wren/a.jpg", "1"), ("1.Wren/b.jpg", "1"), ("2.Gull/a.jpg", "2")]

    assert ranked({"train": birds}, 2)[0].names == ("1.Wren", "2.Gull")
    assert ranked({"train": [*birds, ("1.Wren/c.jpg", "2")]}, 2)[0].names == ("1", "2")


def test_labels_that_train_does_not_have_and_wrong_counts_are_faults():
    """Both at once."""
    _, faults = ranked({"train": [("a", "1"), ("b", "2")], "val": [("c", "3")]}, 5)

    assert faults == [
        "no image of train has the label '3'",
        "train has 2 classes, and the data set 5",
    ]


@pytest.mark.parametrize("label", ["999999", "1234567", "9" * 5000])
def test_huge_numbers_are_faults_and_make_no_names(label):
    """One line of a list must not take the memory of the machine."""
    classes, faults = counted({"train": [("a", "0"), ("b", label)]}, None, None)

    assert len(classes.names) <= LABELS_MAX
    assert len(faults) == 1
    assert label[:20] in faults[0]
    assert len(faults[0]) < 80
    assert ranked({"train": [("a", "0"), ("b", label)]}, 2)[1] == []
