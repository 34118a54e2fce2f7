"""Files of what was once asked: instants, and perhaps tasks and images. Knows no scenario."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.errors import ScenarioError

_COLUMNS: Final = ("at", "task", "image")


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their instants, which begin at 0."""

    at: tuple[float, ...]  # seconds
    tasks: tuple[str, ...]  # as many, or none
    images: tuple[str, ...]  # names of files; as many, or none


def read_trace(file: Path) -> Trace:
    """CSV with a line of column names, or JSON lines; `at` in seconds, `task` and `image` if known.

    Raises:
        ScenarioError: it is neither.
        OSError
    """
    rows: list[Mapping[str, Any]] = []
    faults: list[str] = []
    for number, row in _rows(file):
        try:
            at = float(row["at"])
        except (KeyError, TypeError, ValueError):
            at = math.nan
        if math.isfinite(at):
            rows.append({**row, "at": at})
        else:
            faults.append(f"line {number} has no number `at`")
    for column in _COLUMNS[1:]:
        having = sum(bool(row.get(column)) for row in rows)
        if having not in (0, len(rows)):
            faults.append(f"{column} is given in {having} of {len(rows)} lines")
    if not rows:
        faults.append("it holds no request")
    if faults:
        raise ScenarioError(str(file), tuple(faults[:10]))
    rows.sort(key=lambda row: row["at"])
    begin = rows[0]["at"]
    return Trace(
        at=tuple(row["at"] - begin for row in rows),
        tasks=tuple(str(row["task"]) for row in rows if row.get("task")),
        images=tuple(str(row["image"]) for row in rows if row.get("image")),
    )


def read_names(file: Path) -> tuple[str, ...]:
    """One name a line, in order.

    Raises:
        ScenarioError: there is none.
        OSError
    """
    names = tuple(line.strip() for line in text_of(file).splitlines() if line.strip())
    if not names:
        raise ScenarioError(str(file), ("it names no task",))
    return names


def text_of(file: Path) -> str:
    """What a file says, in UTF-8.

    Raises:
        ScenarioError: it is no text.
        OSError
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ScenarioError(str(file), ("it is no text in UTF-8",)) from None


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    lines = text_of(file).splitlines()
    if lines and lines[0].lstrip().startswith("{"):
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    value = json.loads(line)
                except ValueError:
                    value = None
                yield number, value if isinstance(value, dict) else {}
    else:
        try:
            for number, row in enumerate(csv.DictReader(lines), 2):
                yield number, row
        except csv.Error as error:
            raise ScenarioError(str(file), (f"no CSV: {error}",)) from None
