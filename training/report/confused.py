"""The confusion matrix as a picture: what is right in blue, mistakes in orange. Knows no run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from training.report.canvas import drawn, fitted, inches
from training.report.measures import hardest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES_MOST: Final = 120  # in one picture; of more, those with most mistakes are shown
_SHOWN_OF_MORE: Final = 60
_COUNTS_UP_TO: Final = 30  # classes; more have no room for numbers in their cells
_LABEL_INCHES: Final = 1.9
_AXIS: Final = 0.4  # inches for an axis' title


def draw(file: Path, title: str, classes: Sequence[str], table: NDArray[np.int64]) -> None:
    """Rows are what an image shows, columns what was said; shades are shares of the row.

    Args:
        file: the PNG.
        title: above the matrix.
        classes: names, in the order of the table.
        table: [classes, classes] counts.
    """
    shown: Sequence[int] = range(len(classes))
    if len(classes) > CLASSES_MOST:
        shown = hardest(table, _SHOWN_OF_MORE)
        title += f"\nthe {len(shown)} of {len(classes)} classes with most mistakes"
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    table, shares = table[np.ix_(shown, shown)], shares[np.ix_(shown, shown)]
    cell, letters = _sizes(len(shown))
    names = [fitted(classes[at], letters, _LABEL_INCHES) for at in shown]
    longest = max(inches(name, letters) for name in names)
    upright = longest < 0.8 * cell
    margin = longest + _AXIS  # left of the cells
    below = (0.15 if upright else longest) + _AXIS
    side = max(cell * len(names), 2.2)
    top, right = 0.35 + 0.2 * title.count("\n"), 0.3
    width, height = (
        max(margin + side + right, max(inches(line, 10) for line in title.split("\n")) + 0.3),
        below + side + top,
    )
    with drawn(file, width, height) as figure:
        figure.text(0.1 / width, 1 - 0.1 / height, title, ha="left", va="top", fontsize=10)
        axes = figure.add_axes((margin / width, below / height, side / width, side / height))
        _cells(axes, shares)
        if len(names) <= _COUNTS_UP_TO:
            _counts(axes, table, shares, letters)
        axes.set_xticks(range(len(names)), names, rotation=0 if upright else 90, fontsize=letters)
        axes.set_yticks(range(len(names)), names, fontsize=letters)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("said")
        axes.set_ylabel("shown")


def _sizes(classes: int) -> tuple[float, float]:
    """Inches a cell, and points of the letters."""
    if classes <= 12:
        return 0.5, 9
    if classes <= _COUNTS_UP_TO:
        return 0.32, 8
    return 0.15, 6.5


def _cells(axes: "Axes", shares: NDArray[np.float64]) -> None:
    from matplotlib.colors import PowerNorm  # noqa: PLC0415 (as canvas does)

    right = np.eye(len(shares), dtype=bool)
    # The root makes a mistake of a few percent visible; none at all stays white.
    norm = PowerNorm(0.5, vmin=0, vmax=1.25)
    edges = np.arange(len(shares) + 1) - 0.5
    nothing = shares == 0
    for colours, hidden in (("Blues", ~right | nothing), ("Oranges", right | nothing)):
        axes.pcolormesh(
            edges,
            edges,
            np.ma.masked_array(shares, hidden),
            cmap=colours,
            norm=norm,
        )
    for edge in edges:  # also around cells that hold nothing
        axes.axhline(edge, color="#E4E4E4", linewidth=0.5)
        axes.axvline(edge, color="#E4E4E4", linewidth=0.5)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(edges[-1], edges[0])


def _counts(
    axes: "Axes", table: NDArray[np.int64], shares: NDArray[np.float64], letters: float
) -> None:
    for row, column in np.argwhere(table):
        size = letters if table[row, column] < 1000 else letters - 2
        colour = "white" if shares[row, column] > 0.35 else "black"
        text = str(table[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
