"""Labels as lists write them, to the classes of a task. Knows no file and no image."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from adapters_store.manifest import LABELS_MAX

_DIGITS_MOST: Final = 6  # of a number: more are no row of any head

Line = tuple[str, str]  # path, label as it is written


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """The rows of the head, and which of them each label means."""

    names: tuple[str, ...]
    position: Mapping[str, int]  # label as it is written → position in names


def counted(
    lines: Mapping[str, Sequence[Line]], count: int | None, names: Sequence[str] | None
) -> tuple[Classes, list[str]]:
    """Labels that are the numbers 0 … count - 1, and what is wrong with them.

    Args:
        lines: split → its lines.
        count: of classes, where it is known; else the greatest label says it, up to what a
            manifest holds. A class may be without images: 800 images do not reach into all of
            SUN397.
        names: of the classes, in the order of labels, where there are any.
    """
    used = {label for rows in lines.values() for _, label in rows}
    faults = [_strange(label) for label in sorted(used) if not _number(label)]
    numbers = sorted({int(label) for label in used if _number(label)})
    size = min(max(numbers, default=0) + 1, LABELS_MAX) if count is None else count
    faults += [f"the label {n} is none of 0 … {size - 1}" for n in numbers if n >= size]
    if names is not None and len(names) != size:
        faults.append(f"{len(names)} classes have names, and there are {size}")
    shown = tuple(map(str, range(size))) if names is None else tuple(names)
    position = {label: int(label) for label in used if _number(label)}
    return Classes(names=shown, position=position), faults


def ranked(lines: Mapping[str, Sequence[Line]], count: int | None) -> tuple[Classes, list[str]]:
    """Labels of any kind in their own order, and what is wrong with them.

    Words name their classes; numbers do too, unless every class has a folder of its own.
    """
    given = {label for _, label in lines["train"]}
    numbers = all(map(_number, given))
    labels = sorted(given, key=int) if numbers else sorted(given)
    strangers = sorted({label for rows in lines.values() for _, label in rows} - given)
    faults = [f"no image of train has the label {label!r}" for label in strangers]
    if count is not None and len(labels) != count:
        faults.append(f"train has {len(labels)} classes, and the data set {count}")
    folders = _folders(lines["train"]) if numbers else {}
    names = tuple(folders.get(label, label) for label in labels)
    return Classes(names=names, position={label: at for at, label in enumerate(labels)}), faults


def _folders(lines: Sequence[Line]) -> dict[str, str]:
    """Label → the one folder that its images are in; nothing unless that tells classes apart."""
    pairs = {(label, posixpath.basename(posixpath.dirname(path))) for path, label in lines}
    labels, folders = {label for label, _ in pairs}, {folder for _, folder in pairs}
    if len(labels) == len(folders) == len(pairs) and "" not in folders:
        return dict(pairs)
    return {}


def _number(label: str) -> bool:
    return len(label) <= _DIGITS_MOST and label.isascii() and label.isdecimal()


def _strange(label: str) -> str:
    if label.isascii() and label.isdecimal():
        return f"the label {label[:20]!r}, of {len(label)} digits, is too large"
    return f"the label {label!r} is no number"
