"""Images on their way to the device: rows as they are, and rows as an epoch has them."""

import dataclasses

import numpy as np
import pytest
import torch

from training.errors import RecipeInvalidError
from training.feed import Feed
from training.run import train_task

CPU = torch.device("cpu")


@pytest.fixture
def wide(patterns):
    """The patterns with a margin of two pixels around them."""
    train = patterns.train
    padded = np.pad(train.images, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    split = dataclasses.replace(train, wide=padded)
    return dataclasses.replace(patterns, splits={**patterns.splits, "train": split})


def test_rows_come_as_they_are(patterns):
    """Bytes and labels, in the order asked for."""
    feed, rows = Feed(patterns.train, CPU), torch.tensor([5, 0, 7])

    assert torch.equal(feed.images(rows), torch.from_numpy(patterns.train.images[[5, 0, 7]]))
    assert torch.equal(feed.drawn(rows, 3), feed.images(rows))
    assert feed.labels(rows).tolist() == patterns.train.labels[[5, 0, 7]].tolist()
    assert len(feed) == len(patterns.train.labels)


def test_a_crop_hangs_on_seed_epoch_and_row_alone(wide):
    """The same image in another batch is cut the same; in another epoch it is not."""
    feed = Feed(wide.train, CPU, "crop_flip", seed=1)
    rows = torch.arange(24)

    whole = feed.drawn(rows, 1)

    assert whole.shape == wide.train.images.shape
    assert torch.equal(whole[[3, 9]], feed.drawn(torch.tensor([3, 9]), 1))
    assert not torch.equal(whole, feed.drawn(rows, 2))
    assert not torch.equal(whole, Feed(wide.train, CPU, "crop_flip", seed=2).drawn(rows, 1))
    assert torch.equal(feed.images(rows), torch.from_numpy(wide.train.images))


def test_crops_want_a_margin(patterns, tiny, brief):
    """Refused before anything is computed."""
    cropped = brief.model_copy(update={"augment": "crop_flip"})

    with pytest.raises(RecipeInvalidError, match="margin"):
        train_task(patterns, tiny, "name", "alore", {}, cropped)


@pytest.mark.parametrize("method", ["alore", "linear"])
def test_chance_changes_what_is_learnt_and_repeats_itself(wide, tiny, brief, method):
    """A head alone sees crops too: its features are not remembered then."""
    cropped = brief.model_copy(update={"augment": "crop_flip"})

    one, two, plain = (
        train_task(wide, tiny, "name", method, {}, recipe) for recipe in (cropped, cropped, brief)
    )

    assert one.data == two.data
    assert one.log[0].loss != plain.log[0].loss or one.log[1].loss != plain.log[1].loss
