"""Plots as inline SVG, without script. Knows points and scales, no hits. Pure.

Every plot is drawn twice, for a wide and for a narrow page; the style sheet shows one of them, so
that letters keep their size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from loadtest.report.axes import Scale

_SIZES: Final = (("wide", 590.0, 290.0), ("narrow", 340.0, 250.0))
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 12.0, 40.0

Points = Sequence[tuple[float, float | None]]  # None: a gap


@dataclass(frozen=True, slots=True)
class Line:
    """One series; `style` is a class of the style sheet."""

    name: str
    points: Points
    style: str
    dots: bool = False  # no line between them
    under: bool = False  # broad and pale: what lies on it stays to be seen


@dataclass(frozen=True, slots=True)
class Mark:
    """A straight line across the plot."""

    name: str
    value: float
    upright: bool
    style: str = "mark"


def plot(
    title: str,
    lines: Sequence[Line],
    x: tuple[str, Scale],
    y: tuple[str, Scale],
    marks: Sequence[Mark] = (),
) -> str:
    """A figure with its legend; `x` and `y` are names and scales."""
    keys = "".join(
        f'<span class="key"><i class="{line.style}"></i>{escape(line.name)}</span>'
        for line in lines
    )
    keys += "".join(
        f'<span class="key"><i class="{mark.style} dashed"></i>{escape(mark.name)}</span>'
        for mark in {mark.name: mark for mark in marks}.values()
    )
    drawn = "".join(_svg(size, title, lines, x, y, marks) for size in _SIZES)
    caption = f"<figcaption>{escape(title)}</figcaption>"
    return f'<figure>{caption}{drawn}<p class="keys">{keys}</p></figure>'


def _svg(
    size: tuple[str, float, float],
    title: str,
    lines: Sequence[Line],
    x: tuple[str, Scale],
    y: tuple[str, Scale],
    marks: Sequence[Mark],
) -> str:
    name, width, height = size
    right, bottom = width - _RIGHT, height - _BOTTOM

    def px(value: float) -> float:
        return _LEFT + min(max(x[1].place(value), -0.01), 1.01) * (right - _LEFT)

    def py(value: float) -> float:
        return bottom - min(max(y[1].place(value), -0.01), 1.01) * (bottom - _TOP)

    label = escape(title, quote=True)
    box = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}"'
    parts = [f'<svg class="{name}" {box}>']
    for value, text in y[1].ticks:
        at = py(value)
        parts.append(f'<path class="grid" d="M{_LEFT:g} {at:.1f}H{right:g}"/>')
        parts.append(f'<text class="ty" x="{_LEFT - 6:g}" y="{at + 4:.1f}">{escape(text)}</text>')
    shown = x[1].ticks if name == "wide" else _thinned(x[1].ticks)
    for value, text in shown:
        at = px(value)
        parts.append(f'<path class="grid" d="M{at:.1f} {_TOP:g}V{bottom:g}"/>')
        parts.append(f'<text class="tx" x="{at:.1f}" y="{bottom + 16:g}">{escape(text)}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="tx name" x="{middle:g}" y="{height - 6:g}">{escape(x[0])}</text>')
    parts.append(
        f'<text class="tx name" transform="translate(12 {(_TOP + bottom) / 2:g}) rotate(-90)">'
        f"{escape(y[0])}</text>"
    )
    for mark in marks:
        where = (
            f"M{px(mark.value):.1f} {_TOP:g}V{bottom:g}"
            if mark.upright
            else f"M{_LEFT:g} {py(mark.value):.1f}H{right:g}"
        )
        parts.append(f'<path class="{mark.style} dashed" d="{where}"/>')
    for line in lines:
        places = [(px(a), None if b is None else py(b)) for a, b in line.points]
        parts.append(_dots(line, places) if line.dots else _path(line, places))
    return "".join((*parts, "</svg>"))


def _path(line: Line, places: Sequence[tuple[float, float | None]]) -> str:
    words, pen = [], "M"
    lone = []
    for i, (a, b) in enumerate(places):
        if b is None:
            pen = "M"
            continue
        around = [places[j][1] for j in (i - 1, i + 1) if 0 <= j < len(places)]
        if all(neighbour is None for neighbour in around):
            lone.append((a, b))
        words.append(f"{pen}{a:.1f} {b:.1f}")
        pen = "L"
    broad = " under" if line.under else ""
    path = f'<path class="{line.style} line{broad}" d="{"".join(words)}"/>'
    return path + _dots(line, lone)  # a point without neighbours is no line


def _dots(line: Line, places: Sequence[tuple[float, float | None]]) -> str:
    return "".join(
        f'<circle class="{line.style}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>'
        for a, b in places
        if b is not None
    )


def _thinned(ticks: Sequence[tuple[float, str]]) -> Sequence[tuple[float, str]]:
    """No more than fit a narrow page."""
    most = 6
    return ticks if len(ticks) <= most else ticks[:: -(-len(ticks) // most)]
