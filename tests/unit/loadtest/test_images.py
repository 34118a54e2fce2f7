"""The pool of images is what was asked for, and the same for every process."""

import io

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from loadtest.errors import ScenarioError
from loadtest.images import CORRUPT, pixels, pool
from loadtest.scenario import Images

SEED = np.random.SeedSequence(0)


def opened(picture):
    with Image.open(io.BytesIO(picture.data)) as image:
        image.load()
        return image.format, image.size


def test_drawn_pictures_have_their_sizes_and_formats():
    images = Images(
        count=20,
        sizes=[{"width": 32, "height": 24, "weight": 3}, {"width": 64, "height": 48}],
        formats={"jpeg": 3, "png": 1},
    )

    found = [opened(picture) for picture in pool(images, SEED)]

    assert [size for _, size in found].count((32, 24)) == 15
    assert [kind for kind, _ in found].count("PNG") in (4, 5, 6)
    assert {(k, s) for k, s in found} == {
        (kind, size) for kind in ("JPEG", "PNG") for size in ((32, 24), (64, 48))
    }


def test_every_process_draws_the_same_pool():
    images = Images(count=3, corrupt_share=0.5)

    assert pool(images, SEED) == pool(images, np.random.SeedSequence(0))


def test_bad_pictures_are_bad():
    made = pool(Images(count=2, corrupt_share=0.5), SEED)

    bad = [picture for picture in made if not picture.good]
    assert len(bad) == CORRUPT
    for picture in bad:
        with pytest.raises((OSError, UnidentifiedImageError, SyntaxError)):
            opened(picture)


def test_a_folder_s_files_are_sent_as_they_are(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.PNG", "deep/a.jpg", "notes.txt"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name, "PNG")

    found = pool(Images(folder=str(tmp_path)), SEED)

    assert [picture.name for picture in found] == ["b.PNG", "deep/a.jpg"]
    assert found[0].data == (tmp_path / "b.PNG").read_bytes()
    assert [picture.media for picture in found] == ["image/png", "image/jpeg"]


def test_a_folder_s_files_may_be_sent_otherwise(tmp_path):
    for i in range(5):
        Image.new("L", (80, 60)).save(tmp_path / f"{i}.png")

    found = pool(
        Images(
            folder=str(tmp_path), count=3, sizes=[{"width": 10, "height": 20}], formats={"webp": 1}
        ),
        SEED,
    )

    assert [opened(picture) for picture in found] == [("WEBP", (10, 20))] * 3
    assert {picture.media for picture in found} == {"image/webp"}


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ScenarioError, match="holds no"):
        pool(Images(folder=str(tmp_path)), SEED)


def test_pixels_are_normalised_and_in_the_order_of_networks():
    (picture,) = pool(Images(count=1, formats={"png": 1}), SEED)

    data = np.frombuffer(pixels(picture, 16, (0.5,) * 3, (0.25,) * 3), "<f4").reshape(3, 16, 16)

    with Image.open(io.BytesIO(picture.data)) as image:
        small = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC), np.float32) / 255
    assert np.allclose(data, (small.transpose(2, 0, 1) - 0.5) / 0.25, atol=1e-5)
