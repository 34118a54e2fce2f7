"""Pictures: every ordinary kind is answered alike, everything else is refused."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adapters_store.errors import ImageInvalidError
from adapters_store.manifest import Preprocess
from adapters_store.pixels import PIXELS_MAX, arrange, decode, normalise, pixels
from tests import matrix_images
from tests.picture_files import SCENE, Case, png_blank, profile, saved

HALF = (0.5, 0.5, 0.5)
SQUASH = Preprocess(size=(8, 8), mean=HALF, std=HALF)


def encoded(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def halves(size=(40, 20)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, (255, 0, 0))
    image.paste((0, 0, 255), (size[0] // 2, 0, *size))
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_ordinary_formats_give_the_same_picture(kind):
    how = {"lossless": True} if kind == "WEBP" else {}

    got = pixels(encoded(halves(), kind, **how), SQUASH)

    assert got.shape == (3, 8, 8)
    assert got.dtype == np.uint8
    np.testing.assert_allclose(got[:, 4, 0], [255, 0, 0], atol=8)
    np.testing.assert_allclose(got[:, 4, -1], [0, 0, 255], atol=8)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "I;16"])
def test_every_colour_mode_becomes_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    grey = Image.new("L", (8, 8), 255)
    image = Image.new("I;16", (8, 8), 65535) if mode == "I;16" else grey.convert(mode)

    got = pixels(encoded(image, kind), SQUASH)

    np.testing.assert_array_equal(got, 255)


def test_what_is_transparent_becomes_white():
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))

    np.testing.assert_array_equal(pixels(encoded(clear), SQUASH), 255)


def test_pictures_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = encoded(halves(), "JPEG", exif=exif, quality=95)

    np.testing.assert_allclose(pixels(turned, SQUASH)[:, 4, 0], [0, 0, 255], atol=30)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (8, 8), c) for c in ((255, 0, 0), (0, 255, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    np.testing.assert_array_equal(pixels(data, SQUASH)[:, 0, 0], [255, 0, 0])


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (1, 1)])
@pytest.mark.parametrize("geometry", ["squash", "timm"])
def test_extreme_shapes_are_answered(size, geometry):
    preprocess = SQUASH.model_copy(update={"geometry": geometry, "crop_pct": 0.9})

    assert pixels(encoded(Image.new("RGB", size)), preprocess).shape == (3, 8, 8)


def photograph(width, height):
    """Soft shapes and some grain, as a camera sees them."""
    rng = np.random.default_rng(width)
    shapes = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height))
    grain = rng.normal(0, 2, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(shapes) + grain, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("geometry", ["squash", "timm"])
@pytest.mark.parametrize("size", [(40, 30), (150, 100), (900, 640)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_fast_way_gives_the_pixels_of_the_reference(kind, size, geometry, orientation):
    """The largest of these is decoded at a fraction of its size, which costs a little."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph(*size), kind, exif=exif)
    preprocess = SQUASH.model_copy(update={"size": (32, 32), "geometry": geometry})

    far = np.abs(pixels(data, preprocess).astype(int) - arrange(decode(data), preprocess))

    scaled = kind == "JPEG" and size == (900, 640)
    assert far.max() <= (16 if scaled else 2)
    assert far.mean() < (2.0 if scaled else 0.3)


def test_a_large_jpeg_is_not_decoded_whole(monkeypatch):
    """Only as far as twice what the network reads: a phone's photograph costs a sixth."""
    sizes = []
    load = Image.Image.getexif  # called on the loaded picture too
    monkeypatch.setattr(Image.Image, "getexif", lambda i: (sizes.append(i.size), load(i))[1])

    pixels(encoded(photograph(900, 640), "JPEG"), SQUASH)

    assert sizes[0] == (900, 640)
    assert max(sizes[-1]) < 200


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%PDF-1.4", b"\xff\xd8\xff\xe0" + b"\0" * 100],
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(ImageInvalidError):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_a_truncated_picture_is_refused(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)

    with pytest.raises(ImageInvalidError):
        decode(data[: len(data) * 2 // 3])


def test_a_picture_of_too_many_pixels_is_refused_from_its_header():
    data = encoded(Image.new("1", (4000, 4000)))

    with pytest.raises(ImageInvalidError, match="4000x4000"):
        decode(data, pixels_max=1_000_000)


def test_a_thread_of_an_image_is_not_blown_up():
    preprocess = SQUASH.model_copy(update={"geometry": "timm", "crop_pct": 0.9})

    with pytest.raises(ImageInvalidError, match="long and thin"):
        pixels(encoded(Image.new("1", (1, 50_000))), preprocess, pixels_max=1_000_000)


def test_timm_geometry_is_timms_own_transform():
    from timm.data import create_transform

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (75, 50, 3), np.uint8)).resize((100, 150))
    preprocess = Preprocess(size=(32, 32), geometry="timm", crop_pct=0.9, mean=HALF, std=HALF)
    transform = create_transform(
        (3, 32, 32), interpolation="bicubic", crop_pct=0.9, mean=HALF, std=HALF
    )

    got = arrange(image, preprocess)

    half = torch.tensor(HALF)
    ours = normalise(torch.from_numpy(got[None]), half, half)[0]
    torch.testing.assert_close(ours, transform(image), atol=1e-5, rtol=0)


def test_normalisation_is_that_of_torchvision():
    batch = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 3, 2, 2)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])

    got = normalise(batch, mean, std)

    wanted = (batch / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("case", matrix_images.cases(), ids=str)
def test_every_kind_of_picture_is_answered_right_or_refused(case: Case):
    if case.picture is None:
        with pytest.raises(ImageInvalidError) as refused:
            decode(case.data)
        assert case.says in refused.value.reason
        assert refused.value.reason.isprintable()
        assert " at 0x" not in refused.value.reason
        return

    got = np.asarray(decode(case.data))

    np.testing.assert_allclose(got.astype(int), case.picture, atol=case.within)


def test_a_profile_that_was_applied_would_show():
    """What stands behind the cases that pass over a profile which swaps red and blue."""
    from PIL import ImageCms

    swapped, plain = (ImageCms.ImageCmsProfile(io.BytesIO(profile(swapped=s))) for s in (1, 0))
    red = Image.new("RGB", (1, 1), (255, 0, 0))

    got = ImageCms.profileToProfile(red, swapped, plain, outputMode="RGB").getpixel((0, 0))

    assert got[2] > 200
    assert got[0] < 50


_KINDS = {
    "JPEG": {},
    "JPEG progressive": {"progressive": True},
    "PNG": {},
    "GIF": {},
    "WEBP": {},
    "WEBP lossless": {"lossless": True},
    "BMP": {},
    "PPM": {},
    "TIFF": {},
    "TIFF deflate": {"compression": "tiff_adobe_deflate"},
    "TIFF lzw": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("kind", _KINDS)
def test_wherever_a_picture_is_cut_off_it_is_whole_or_refused(kind):
    data = saved(SCENE, kind.partition(" ")[0], **_KINDS[kind])
    whole = np.asarray(decode(data))
    refused = 0

    for end in np.linspace(0, len(data) - 1, 60).astype(int):
        try:
            np.testing.assert_array_equal(np.asarray(decode(data[:end])), whole)
        except ImageInvalidError:
            refused += 1

    assert refused >= 40


def test_the_limit_of_pixels_is_met_exactly():
    at = png_blank((100, 80))

    assert decode(at, pixels_max=8000).size == (100, 80)
    with pytest.raises(ImageInvalidError, match="at most 7999"):
        decode(at, pixels_max=7999)
    assert decode(png_blank((8000, 6250))).size == (8000, 6250)


def test_a_higher_limit_than_training_has_changes_nothing():
    with pytest.raises(ImageInvalidError, match=str(PIXELS_MAX)):
        decode(png_blank((8000, 6251)), pixels_max=2 * PIXELS_MAX)


@pytest.mark.parametrize("geometry", ["squash", "timm"])
def test_lines_are_squashed_and_not_enlarged(geometry):
    preprocess = SQUASH.model_copy(update={"geometry": geometry, "size": (64, 64)})
    line = png_blank((20_000, 1))

    if geometry == "squash":
        assert pixels(line, preprocess).shape == (3, 64, 64)
    else:
        with pytest.raises(ImageInvalidError, match="long and thin"):
            pixels(line, preprocess)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
def test_no_picture_takes_more_memory_than_is_promised():
    """In a process of its own, each kind that was costly once, of six million pixels."""
    command = [sys.executable, "-m", "tests.picture_memory"]
    returning = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # what is freed goes back at once

    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **returning}
    )

    costs = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert len(costs) >= 10
    assert {name: cost for name, cost in costs.items() if float(cost) > 0} == {}
