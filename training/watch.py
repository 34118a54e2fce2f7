"""What a run tells of itself while it goes on. Knows no tensor and no terminal."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One line of the training log."""

    epoch: int  # from 1
    epochs: int
    lr: float  # of its last step
    loss: float  # mean over its images, as they were trained on
    train_accuracy: float  # likewise: with dropout, and before each step
    val_accuracy: float | None  # after the epoch; None where there is no val
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told how far training is. The default tells nobody."""

    on_epoch: Callable[[Epoch], None] = lambda _: None
    on_step: Callable[[int, int], None] = lambda _done, _of: None
    on_resume: Callable[[int, int], None] = lambda _done, _of: None  # before the first step
