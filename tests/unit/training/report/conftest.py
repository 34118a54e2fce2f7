"""Made-up answers of made-up tasks."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from training.report.facts import Facts
from training.report.measures import Answers, answered
from training.watch import Epoch


@pytest.fixture
def make_answers() -> Callable[..., Answers]:
    """So many images of a task with so many classes, mostly right."""

    def make(classes: int, images: int = 60, *, flawless: bool = False) -> Answers:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, classes, images)
        logits = rng.standard_normal((images, classes)).astype(np.float32)
        logits[np.arange(images), labels] += 100 if flawless else 2
        pictures = rng.integers(0, 255, (images, 3, 8, 8)).astype(np.uint8)
        return answered("test", pictures, labels, logits)

    return make


@pytest.fixture
def make_facts(make_answers) -> Callable[..., Facts]:
    """A run with these classes."""

    def make(classes: Sequence[str] = ("cat", "dog"), **changed: object) -> Facts:
        epoch = Epoch(
            epoch=1, epochs=1, lr=1e-3, loss=0.7, train_accuracy=0.5, val_accuracy=0.6, seconds=2.0
        )
        known = {
            "task": "pets",
            "method": "lora",
            "options": {"rank": 8},
            "recipe": {"lr": 1e-3, "seed": 0},
            "backbone": {"name": "vit", "kwargs": {}, "digest": "b" * 64},
            "preprocess": {"size": (8, 8)},
            "classes": tuple(classes),
            "sizes": {"train": 40, "val": 10, "test": 60},
            "data": "d" * 64,
            "skipped": (),
            "versions": {"torch": "2"},
            "parameters": 1234,
            "file": "pets.safetensors",
            "bytes": 5678,
            "digest": "f" * 64,
            "metrics": {"test": 0.5},
            "protocol": {},
            "tests": (0.5,),
            "trials": (),
            "logs": {0: (epoch,)},
            "answers": make_answers(len(classes)),
        }
        return Facts(**{**known, **changed})

    return make
