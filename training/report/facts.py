"""What a report is made from: the facts of one run. Knows no tensor, no file and no picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.report.measures import Answers
from training.watch import Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One run that has ended, and the file that it left."""

    task: str
    method: str
    options: Mapping[str, Any]  # of the method
    recipe: Mapping[str, Any]  # all of it, seed and geometry included
    backbone: Mapping[str, Any]  # name, kwargs, digest
    preprocess: Mapping[str, Any]
    classes: tuple[str, ...]
    sizes: Mapping[str, int]  # split → images, as the data came
    data: str  # digest of images and labels
    skipped: tuple[str, ...]  # files that were left out, a line each
    versions: Mapping[str, str]
    parameters: int  # trained numbers, the head excluded
    file: str  # its name, without folders
    bytes: int
    digest: str  # of the file
    metrics: Mapping[str, float]  # split → accuracy of the file
    protocol: Mapping[str, Any]  # see training/protocol.py; empty for a plain run
    tests: tuple[float, ...]  # test accuracy of every seed, the file's first; empty without test
    trials: Sequence[Mapping[str, Any]]  # rows of the search for metrics.jsonl
    logs: Mapping[int, Sequence[Epoch]]  # seed → epochs, the file's first
    answers: Answers  # of the file, on test, else val, else train
