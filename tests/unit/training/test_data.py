"""The images of a task in memory: parted fairly, digested, and refused with every fault."""

import numpy as np
import pytest

from training.data import from_arrays, hold_out
from training.errors import DataInvalidError

LABELS = np.repeat(np.arange(4), (50, 10, 5, 1))


def images_of(count: int, value: int = 0) -> np.ndarray:
    """Pictures of one colour."""
    return np.full((count, 3, 8, 8), value, dtype=np.uint8)


def test_a_fifth_of_every_class_is_held_out():
    """The share holds class by class, and a single image is never taken."""
    held = hold_out(LABELS, 0.2, seed=0)

    assert np.bincount(LABELS[held], minlength=4).tolist() == [10, 2, 1, 0]


def test_what_is_held_out_follows_from_the_seed():
    """One seed, one choice; another seed, another choice."""
    choice = hold_out(LABELS, 0.2, seed=3)

    assert (hold_out(LABELS, 0.2, seed=3) == choice).all()
    assert (hold_out(LABELS, 0.2, seed=4) != choice).any()


def test_a_class_of_two_gives_one_and_keeps_one():
    """Neither part of a small class is empty."""
    assert hold_out(np.array([0, 0, 1, 1]), 0.2, seed=0).sum() == 2


def test_without_val_a_share_of_train_takes_its_place():
    """Together the two parts are what train was."""
    labels = np.repeat([0, 1], 10)

    data = from_arrays("ab", {"train": (images_of(20), labels)})

    assert len(data.train.labels) == 16
    assert data.val is not None
    assert np.bincount(data.val.labels).tolist() == [2, 2]


def test_the_digest_sees_pixels_labels_and_names():
    """A change of any of them is another digest; the seed of the split is not part of it."""
    labels = np.repeat([0, 1], 5)
    given = {"train": (images_of(10), labels)}

    digest = from_arrays("ab", given).digest

    assert from_arrays("ab", given, seed=9).digest == digest
    assert from_arrays("ac", given).digest != digest
    assert from_arrays("ab", {"train": (images_of(10), 1 - labels)}).digest != digest
    assert from_arrays("ab", {"train": (images_of(10, 1), labels)}).digest != digest


def test_every_fault_of_the_arrays_is_listed():
    """Four mistakes, four faults, one error."""
    broken = {
        "train": (images_of(3).astype(np.float32), np.array([0, 1, 5])),
        "test": (images_of(2), np.array([0])),
        "extra": (images_of(1), np.array([0])),
    }

    with pytest.raises(DataInvalidError) as caught:
        from_arrays("ab", broken)

    text = str(caught.value)
    for fault in ("float32[3, 3, 8, 8]", "within 0 … 1", "'extra' is none of", "of test are not"):
        assert fault in text


@pytest.mark.parametrize(
    "classes", [("a",), ("a", "a"), ("a", ""), ("a", "b\nc"), ("a", "x" * 201)]
)
def test_names_that_no_manifest_holds_are_refused(classes):
    """Class names become labels, so they obey the manifest's rule before anything is trained."""
    with pytest.raises(DataInvalidError):
        from_arrays(classes, {"train": (images_of(4), np.array([0, 0, 0, 0]))})


def test_the_final_run_learns_from_train_and_then_val():
    """In that order; test is as it was, and so is the digest, for it is the same images."""
    data = from_arrays(
        "ab",
        {
            "train": (images_of(4, 1), np.array([0, 1, 0, 1])),
            "val": (images_of(2, 2), np.array([1, 0])),
            "test": (images_of(2, 3), np.array([0, 1])),
        },
    )

    whole = data.with_trainval()

    assert whole.train.labels.tolist() == [0, 1, 0, 1, 1, 0]
    assert whole.train.images[:, 0, 0, 0].tolist() == [1, 1, 1, 1, 2, 2]
    assert whole.val is None
    assert whole.splits["test"] is data.splits["test"]
    assert whole.digest == data.digest
    assert whole.with_trainval() is whole
