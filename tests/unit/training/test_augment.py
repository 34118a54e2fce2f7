"""Crops and flips: by chance, and by no other chance than seed, epoch and row."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from adapters_store.manifest import Preprocess
from adapters_store.pixels import pixels
from training.augment import augmented, source, wide
from training.data import Split
from training.errors import RecipeInvalidError

HALF = (0.5, 0.5, 0.5)
SQUASH = Preprocess(size=(224, 224), mean=HALF, std=HALF)
CENTRE = SQUASH.model_copy(update={"geometry": "timm", "crop_pct": 0.875})


def coded(count: int, side: int) -> torch.Tensor:
    """Pixels that say where they are: red is the row, green the column, blue the image."""
    found = torch.zeros((count, 3, side, side), dtype=torch.uint8)
    found[:, 0] = torch.arange(side, dtype=torch.uint8)[:, None]
    found[:, 1] = torch.arange(side, dtype=torch.uint8)[None, :]
    found[:, 2] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    return found


def drawn(count: int = 200, **change) -> torch.Tensor:
    """Crops of 16 from 20."""
    how = {"rows": range(count), "epoch": 1, "seed": 0, "size": (16, 16), **change}
    return augmented(coded(count, 20), **how)


def test_crops_are_windows_of_the_picture_and_half_are_mirrored():
    """No pixel is changed, every place occurs, and each image stays itself."""
    found = drawn()

    assert found.shape == (200, 3, 16, 16)
    tops, columns = found[:, 0, 0, 0], found[:, 1, 0]
    lefts = columns.min(dim=1).values
    mirrored = columns[:, 0] > columns[:, -1]
    for i, image in enumerate(found):
        window = coded(200, 20)[i, :, tops[i] : tops[i] + 16, lefts[i] : lefts[i] + 16]
        assert torch.equal(image, window.flip(-1) if mirrored[i] else window)
    assert set(tops.tolist()) == set(lefts.tolist()) == {0, 1, 2, 3, 4}
    assert 70 < int(mirrored.sum()) < 130


def test_chance_follows_from_seed_epoch_and_row_alone():
    """Whatever the batch, and whatever was drawn before."""
    whole = drawn()

    assert torch.equal(drawn(), whole)
    rows = [7, 3, 150]
    torch.rand(5)
    part = augmented(coded(200, 20)[rows], rows, epoch=1, seed=0, size=(16, 16))
    assert torch.equal(part, whole[rows])
    assert not torch.equal(drawn(epoch=2), whole)
    assert not torch.equal(drawn(seed=1), whole)


def test_the_callers_random_numbers_are_not_touched():
    """Nothing is drawn from the process's own generator."""
    torch.manual_seed(3)
    wanted = torch.rand(4)

    torch.manual_seed(3)
    drawn(20)

    assert torch.equal(torch.rand(4), wanted)


def test_without_a_margin_there_is_only_the_flip():
    """The crop is the whole picture."""
    pictures = coded(20, 16)

    found = augmented(pictures, range(20), epoch=1, seed=0, size=(16, 16))

    assert all(
        torch.equal(f, p) or torch.equal(f, p.flip(-1))
        for f, p in zip(found, pictures, strict=True)
    )


def test_the_margin_is_that_of_fgvc():
    """256 for 224: around the whole picture, or what serving cuts off."""
    assert wide(SQUASH).size == wide(CENTRE).size == (256, 256)
    assert wide(SQUASH.model_copy(update={"size": (64, 32)})).size == (73, 37)
    assert wide(CENTRE.model_copy(update={"crop_pct": 1.0})).size == (256, 256)


@pytest.mark.parametrize("size", [(400, 300), (331, 500), (224, 224)])
def test_the_middle_of_the_margin_is_what_is_served(size):
    """Of geometry timm, pixel for pixel: training sees around it and measures on it."""
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")

    around = pixels(file.getvalue(), wide(CENTRE))

    served = pixels(file.getvalue(), CENTRE)
    np.testing.assert_array_equal(around[:, 16:240, 16:240], served)


def test_images_without_a_margin_are_refused_where_crops_are_wanted():
    """And are what is taken where they are not."""
    images = np.zeros((2, 3, 8, 8), dtype=np.uint8)
    split = Split(images=images, labels=np.array([0, 1]))

    assert source(split, "none") is images
    with pytest.raises(RecipeInvalidError, match="margin"):
        source(split, "crop_flip")
    roomy = np.zeros((2, 3, 9, 9), dtype=np.uint8)
    assert source(Split(images=images, labels=split.labels, wide=roomy), "crop_flip") is roomy
