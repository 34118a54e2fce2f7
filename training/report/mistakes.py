"""The worst mistakes as a contact sheet. Knows no run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from training.report.canvas import BLUE, ORANGE, drawn, fitted, inches
from training.report.measures import Answers, worst

MOST: Final = 24
_COLUMNS: Final = 6
_PICTURE: Final = 1.5  # inches, both ways
_TEXT: Final = 0.42  # inches, two lines
_GAP: Final = 0.22
_LETTERS: Final = 8  # points


def draw(file: Path, title: str, classes: Sequence[str], answers: Answers) -> None:
    """Up to 24 images that were given a wrong class, the surest first.

    Args:
        file: the PNG.
        title: above the sheet.
        classes: names.
        answers: of the split that is looked at.
    """
    found = worst(answers, MOST)
    if not found:
        with drawn(file, 6, 1) as figure:
            text = f"{title}\nno mistake among {len(answers.labels)} images"
            figure.text(0.03, 0.5, text, ha="left", va="center", fontsize=10)
        return
    columns = min(_COLUMNS, max(3, len(found)))
    rows = -(-len(found) // columns)
    step_x, step_y = _PICTURE + _GAP, _PICTURE + _TEXT + _GAP
    width, height = columns * step_x + _GAP, rows * step_y + 0.35
    with drawn(file, width, height) as figure:
        figure.text(_GAP / width, 1 - 0.1 / height, title, ha="left", va="top", fontsize=10)
        for number, mistake in enumerate(found):
            left = _GAP + number % columns * step_x
            above = 0.35 + number // columns * step_y  # inches from the top to its text
            bottom = height - above - _TEXT - _PICTURE
            place = (left / width, bottom / height, _PICTURE / width, _PICTURE / height)
            axes = figure.add_axes(place)
            axes.imshow(answers.images[mistake.at].transpose(1, 2, 0), interpolation="nearest")
            axes.set_xticks(())
            axes.set_yticks(())
            axes.spines[:].set_visible(False)
            sure = f", {100 * mistake.probability:.0f} %"
            lines = (
                ("is ", classes[mistake.label], "", BLUE, 0.21),
                ("said ", classes[mistake.said], sure, ORANGE, 0.05),
            )
            for word, name, after, colour, lift in lines:
                room = _PICTURE - inches(word + after, _LETTERS)
                axes.text(
                    0,
                    1 + lift / _PICTURE,
                    word + fitted(name, _LETTERS, room) + after,
                    transform=axes.transAxes,
                    ha="left",
                    va="bottom",
                    color=colour,
                    fontsize=_LETTERS,
                )
