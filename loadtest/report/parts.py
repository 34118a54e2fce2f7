"""Pieces of the pages: tiles, tables, the frame around them. Knows HTML, no figures. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def document(title: str, body: str) -> str:
    """A page that needs nothing from elsewhere."""
    style = (resources.files("loadtest") / "report" / "page.css").read_text()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>{body}</body></html>\n"
    )


def tiles(values: Iterable[tuple[str, str, bool]]) -> str:
    """Figures that are read first: what, how much, and whether that is bad."""
    inner = "".join(
        f'<div class="tile{" bad" if bad else ""}"><b>{escape(value)}</b>'
        f"<span>{escape(name)}</span></div>"
        for name, value, bad in values
    )
    return f'<div class="tiles">{inner}</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], words: int | None = None) -> str:
    """Cells are text, or bars; numbers stand to the right, the column `words` to the left."""

    def line(tag: str, cells: Sequence[str]) -> str:
        inner = (_cell(tag, cell, words=i == words) for i, cell in enumerate(cells))
        return f"<tr>{''.join(inner)}</tr>"

    head, body = line("th", columns), "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def bar(shares: Sequence[tuple[str, float]]) -> Markup:
    """Parts of a whole: class of the style sheet, and share."""
    inner = "".join(
        f'<i class="{style}" style="width:{100 * min(max(share, 0.0), 1.0):.2f}%"></i>'
        for style, share in shares
        if share > 0
    )
    return Markup(f'<span class="bar">{inner}</span>')


def banner(lines: Sequence[str]) -> str:
    """What has to be known before anything is read."""
    return "".join(f'<p class="banner">{escape(line)}</p>' for line in lines)


def details(title: str, value: Mapping[str, Any]) -> str:
    """Everything, for who wants it."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def ms(value: float | None) -> str:
    """Milliseconds, three figures."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def share(value: float | None) -> str:
    """A percentage that shows when it is not quite all, or not quite nothing."""
    if value is None:
        return "–"
    percent = 100.0 * value
    return f"{percent:.3f} %" if 0 < percent < 0.1 or 99.9 < percent < 100 else f"{percent:.1f} %"


def _cell(tag: str, text: str, *, words: bool) -> str:
    style = ' class="words"' if words or len(text) > 40 else ""
    if isinstance(text, Markup):
        return f"<{tag}>{text}</{tag}>"
    return f"<{tag}{style}>{escape(text)}</{tag}>"
