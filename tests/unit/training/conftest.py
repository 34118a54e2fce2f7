"""Small pictures of three kinds, in memory and as a folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import TaskData, from_arrays
from training.recipe import Recipe

KINDS = ("bars", "checks", "dots")
COUNTS = {"train": 8, "val": 3, "test": 3}  # of each kind


def picture(kind: int, number: int, size: int = 32) -> np.ndarray:
    """A noisy pattern, the same for the same numbers: uint8 [3, size, size]."""
    y, x = np.mgrid[:size, :size]
    pattern = (x // 4 % 2, (x // 4 + y // 4) % 2, (x // 4 % 2) * (y // 4 % 2))[kind]
    noise = np.random.default_rng([kind, number]).integers(0, 80, (3, size, size))
    return (pattern * 170 + noise).astype(np.uint8)


@pytest.fixture(scope="session")
def patterns() -> TaskData:
    """Three kinds, eight pictures each to train on."""
    splits = {}
    for offset, (split, count) in enumerate(COUNTS.items()):
        numbers = [(kind, 100 * offset + n) for n in range(count) for kind in range(3)]
        splits[split] = (
            np.stack([picture(*pair) for pair in numbers]),
            np.array([kind for kind, _ in numbers]),
        )
    return from_arrays(KINDS, splits)


@pytest.fixture
def brief() -> Recipe:
    """Three epochs of everything a recipe has."""
    return Recipe(epochs=3, batch=10, lr=1e-2)


@pytest.fixture
def write_folder(tmp_path) -> Callable[..., Path]:
    """The writer of image folders: splits → pictures of each kind."""

    def write(
        counts: Mapping[str, int], kinds: tuple[str, ...] = KINDS, name: str = "data"
    ) -> Path:
        root = tmp_path / name
        for offset, (split, count) in enumerate(counts.items()):
            for kind, label in enumerate(kinds):
                folder = root / split / label
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = picture(kind, 100 * offset + number).transpose(1, 2, 0)
                    Image.fromarray(pixels).save(folder / f"{number}.png")
        return root

    return write
