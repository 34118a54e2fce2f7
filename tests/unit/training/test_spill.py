"""Room for pixels: memory or a file, and nobody can tell which."""

import gc

import numpy as np
import pytest

from training import spill
from training.errors import PixelsTooManyError

ROWS = np.arange(60, dtype=np.uint8).reshape(5, 3, 2, 2)


def test_what_is_beyond_the_bound_lies_in_a_file():
    """And below it in memory."""
    assert not isinstance(spill.room((4, 3), memory_max=12), np.memmap)
    assert isinstance(spill.room((4, 3), memory_max=11), np.memmap)


@pytest.mark.parametrize("memory_max", [0, 1000])
def test_rows_are_the_same_wherever_they_lie(memory_max):
    """Chosen and joined, in the order that was asked for."""
    some = spill.chosen(ROWS, np.array([3, 0, 3]), memory_max)
    both = spill.joined((some, ROWS), memory_max)

    np.testing.assert_array_equal(some, ROWS[[3, 0, 3]])
    np.testing.assert_array_equal(both, np.concatenate([ROWS[[3, 0, 3]], ROWS]))
    np.testing.assert_array_equal(both[np.array([1, 4])], ROWS[[0, 1]])


def test_the_file_has_no_name_and_goes_with_the_array(tmp_path, monkeypatch):
    """Nothing is left behind, however the process ends."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    array = spill.room((10,), memory_max=0)
    array[:] = 7

    assert list(tmp_path.iterdir()) == []
    assert array.sum() == 70
    del array
    gc.collect()


def test_a_disk_without_room_is_named(tmp_path, monkeypatch):
    """Before anything is written, and with what to do about it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with pytest.raises(PixelsTooManyError, match="TMPDIR"):
        spill.room((2**60,), memory_max=0)
