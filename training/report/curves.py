"""The learning curves as a picture. Knows no file format and no run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.report.canvas import BLUE, GREY, ORANGE, drawn
from training.watch import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DOTS_UP_TO = 40  # epochs; more would melt together


def draw(file: Path, title: str, logs: Mapping[int, Sequence[Epoch]]) -> None:
    """Loss, and accuracy on train and val, epoch by epoch.

    Args:
        file: the PNG.
        title: above both panels.
        logs: seed → epochs; the first in colour, the others thin behind it.
    """
    with drawn(file, 9, 3.4) as figure:
        figure.suptitle(title, x=0.01, y=0.98, ha="left", va="top", fontsize=10)
        loss, accuracy = figure.subplots(1, 2)
        first, *others = logs.values()
        for log in reversed(others):
            _line(loss, log, [row.loss for row in log], GREY, width=0.7)
            _line(accuracy, log, [row.train_accuracy for row in log], GREY, width=0.7)
        _line(loss, first, [row.loss for row in first], BLUE)
        _line(accuracy, first, [row.train_accuracy for row in first], BLUE, label="train")
        found = [row.val_accuracy for row in first if row.val_accuracy is not None]
        if len(found) == len(first):
            _line(accuracy, first, found, ORANGE, label="val")
        if others:
            accuracy.plot([], [], color=GREY, linewidth=0.7, label="train, other seeds")
        loss.set_title("loss on train, mean of the epoch", loc="left")
        accuracy.set_title("accuracy", loc="left")
        loss.set_ylim(bottom=0)
        accuracy.set_ylim(0, 1.02)
        accuracy.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        accuracy.legend(loc="lower right", frameon=False)
        for axes in (loss, accuracy):
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
            axes.set_axisbelow(True)
        figure.tight_layout(rect=(0, 0, 1, 1.02))


def _line(
    axes: "Axes",
    log: Sequence[Epoch],
    values: Sequence[float],
    colour: str,
    *,
    width: float = 1.8,
    label: str | None = None,
) -> None:
    axes.plot(
        [row.epoch for row in log],
        values,
        color=colour,
        linewidth=width,
        marker="o" if len(log) <= _DOTS_UP_TO and width > 1 else None,
        markersize=3,
        label=label,
    )
