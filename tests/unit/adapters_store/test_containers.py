"""Files are followed as far as they can be, and only what costs too much is refused."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adapters_store.containers import CHUNKS_MAX, SCANS_MAX, VALUES_MAX, fault
from tests.picture_files import SCENE, chunk, png_of, saved, scans

_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"")


@given(st.sampled_from(_HEADS), st.binary(max_size=200))
def test_whatever_the_bytes_are_they_are_followed_without_failing(head, data):
    assert isinstance(fault(head + data), str)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_ordinary_files_pass(kind):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)

    assert fault(saved(noise, kind)) == ""


def test_a_jpeg_with_restart_marks_and_a_thumbnail_passes():
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda" * 500  # looks like scans, inside a segment

    assert fault(saved(SCENE, "JPEG", restart_marker_blocks=1, exif=exif)) == ""


def test_what_follows_a_jpeg_is_not_its_own():
    """Telephones append films to their pictures."""
    assert fault(saved(SCENE, "JPEG") + b"\xff\xda\0\4ab" * 10_000) == ""


def test_scans_are_counted_wherever_they_stand():
    first = len(fault(scans(SCENE, SCANS_MAX - 15)))

    assert first == 0
    assert "scans" in fault(scans(SCENE, SCANS_MAX + 1))


def test_the_image_data_of_a_png_may_be_in_any_number_of_chunks():
    sound = png_of(SCENE, 8, 2)
    end = sound.index(b"IDAT") - 4

    assert fault(sound[:end] + chunk(b"IDAT") * 10_000 + sound[end:]) == ""
    assert "chunks" in fault(sound[:end] + chunk(b"tEXt", b"a\0b") * (CHUNKS_MAX + 1) + sound[end:])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_the_values_of_a_directory_are_counted_in_every_dialect(order, big):
    start = b"II" if order == "<" else b"MM"
    if big:
        head = start + struct.pack(f"{order}HHHQ", 43, 8, 0, 16)
        table = struct.pack(f"{order}QHHQQ", 1, 324, 16, VALUES_MAX, 99)
    else:
        head = start + struct.pack(f"{order}HI", 42, 8)
        table = struct.pack(f"{order}HHHII", 1, 324, 4, VALUES_MAX, 99)

    assert "values" in fault(head + table)
