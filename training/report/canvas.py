"""How every picture is drawn and kept: without a screen, the same bytes each time. Knows no data.

matplotlib is imported when the first picture is drawn, and its global state is not touched.
"""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from training.files import whole

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure

# Okabe and Ito's, which colour-blind readers tell apart.
BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREY: Final = "#6B6B6B"

_NO_GLYPH: Final = "Glyph [0-9]+ "
_RULER_DPI: Final = 288  # lines are measured to a quarter of a point
_STYLE: Final[Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a class may be called $5 or a_b
    "svg.hashsalt": "rootstock",
}


@contextmanager
def drawn(file: Path, width: float, height: float, dpi: int = 110) -> "Iterator[Figure]":
    """A figure of width × height inches that is written whole at the end."""
    from matplotlib import rc_context  # noqa: PLC0415 (half a second, for reports alone)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context(_STYLE), warnings.catch_warnings():
        # Names of classes may be in scripts that the bundled font has no glyphs for.
        warnings.filterwarnings("ignore", message=_NO_GLYPH)
        figure = Figure(figsize=(width, height), dpi=dpi)
        FigureCanvasAgg(figure)
        yield figure
        with whole(file) as part:
            # The name of the program would tie the bytes to its version.
            figure.savefig(part, format="png", metadata={"Software": None})


def inches(text: str, points: float) -> float:
    """How wide a line is in letters of that size."""
    from matplotlib.font_manager import FontProperties  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_NO_GLYPH)
        wide, _, _ = _ruler().get_text_width_height_descent(  # type: ignore[no-untyped-call]
            text, FontProperties(size=points), ismath=False
        )
    return float(wide) / _RULER_DPI


@functools.cache
def _ruler() -> "RendererAgg":
    from matplotlib.backends.backend_agg import RendererAgg  # noqa: PLC0415

    return RendererAgg(1, 1, _RULER_DPI)  # type: ignore[no-untyped-call]


def fitted(text: str, points: float, width: float) -> str:
    """The text, or its beginning and end where the whole is wider than so many inches."""
    if (whole := inches(text, points)) <= width:
        return text
    kept = min(len(text), int(len(text) * width / whole) + 3)  # letters differ in width
    while kept > 2:
        kept -= 1
        tail = kept // 3
        shown = f"{text[: kept - tail]}…{text[len(text) - tail :]}"
        if inches(shown, points) <= width:
            return shown
    return "…"
