"""What a run is known by: the network, what it is shown, and its images in their order."""

from dataclasses import replace

import numpy as np
import pytest

from training.data import with_val
from training.identity import grounds
from training.recipe import Recipe


@pytest.fixture
def sorted_by_class(patterns):
    """All pictures of the first class, then all of the second: as folders are read."""
    train = patterns.train
    order = np.argsort(train.labels, kind="stable")
    return replace(train, images=train.images[order], labels=train.labels[order])


def test_another_share_of_train_held_out_is_another_run(tiny, patterns, sorted_by_class):
    """Its labels are the same in the same order, and the digest is of all images."""
    first, again, other = (
        replace(patterns, splits=with_val({"train": sorted_by_class}, seed)) for seed in (0, 0, 1)
    )
    recipe = Recipe()
    assert first.train.labels.tolist() == other.train.labels.tolist()

    assert grounds(first, tiny, recipe) == grounds(again, tiny, recipe)
    assert grounds(first, tiny, recipe) != grounds(other, tiny, recipe)
    whole = [grounds(data.with_trainval(), tiny, recipe) for data in (first, other)]
    assert whole[0] != whole[1]


def test_labels_in_another_order_are_another_run(tiny, patterns):
    """With the very same pictures."""
    train = replace(patterns.train, labels=patterns.train.labels[::-1].copy())
    other = replace(patterns, splits={**patterns.splits, "train": train})

    told, theirs = (grounds(data, tiny, Recipe())["order"] for data in (patterns, other))

    assert told["train"] != theirs["train"]
    assert told["val"] == theirs["val"]


def test_the_networks_name_and_shape_and_its_input_belong_to_a_run(tiny, patterns):
    """Weights of the same bytes may stand in networks of two names."""
    told = grounds(patterns, tiny, Recipe(normalise="none"))

    assert told["backbone"] == tiny.spec.ref.model_dump(mode="json")
    assert told["preprocess"] != grounds(patterns, tiny, Recipe())["preprocess"]
