"""Three tasks cut from scikit-learn's scans of handwritten digits. Knows no server."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapters_store.manifest import Preprocess
from adapters_store.pixels import pixels

if TYPE_CHECKING:
    from training.data import TaskData

TRAIN, VAL, TEST = range(800), range(800, 1000), range(1000, 1797)
_SEED: Final = 0  # of the one shuffle that splits the scans


@dataclass(frozen=True, slots=True)
class Question:
    """One task: what is asked about a scan, and by which method its adapter is trained."""

    task: str
    method: str
    classes: tuple[str, ...]
    label: Callable[[int], int]  # digit → class


QUESTIONS: Final = (
    Question("digits", "alore", tuple("0123456789"), lambda digit: digit),
    Question("parity", "lora", ("even", "odd"), lambda digit: digit % 2),
    Question("loops", "linear", ("no-loop", "loop"), lambda digit: int(digit in (0, 6, 8, 9))),
)

# What gets a second release: the same question, answered by a better method.
SECOND: Final = Question("loops", "alore", QUESTIONS[2].classes, QUESTIONS[2].label)


@dataclass(frozen=True, slots=True)
class Scans:
    """The scans as files, shuffled once, and what they show."""

    files: tuple[bytes, ...]  # PNG, 8x8 pixels, as a client would send them
    digits: NDArray[np.int64]

    def data(self, question: Question, preprocess: Preprocess) -> "TaskData":
        """The training data of one task, decoded by the very code that serves."""
        from training.data import from_arrays

        whole = np.stack([pixels(file, preprocess) for file in self.files])
        labels = np.array([question.label(int(d)) for d in self.digits], dtype=np.int64)
        parts = {"train": list(TRAIN), "val": list(VAL)}  # the rest is for HTTP alone
        return from_arrays(
            question.classes, {name: (whole[at], labels[at]) for name, at in parts.items()}
        )

    def truth(self, question: Question) -> Mapping[int, str]:
        """The right label of every held-out scan, by its place."""
        return {i: question.classes[question.label(int(self.digits[i]))] for i in TEST}


def load() -> Scans:
    """1797 scans of handwritten digits (UCI optical recognition, bundled with scikit-learn)."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    order = np.random.default_rng(_SEED).permutation(len(bundle.target))
    files = []
    for scan in bundle.images[order]:
        file = io.BytesIO()
        Image.fromarray((scan * (255 / 16)).round().astype(np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return Scans(tuple(files), bundle.target[order].astype(np.int64))
