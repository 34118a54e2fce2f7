"""Images named in list files: a path and a label a line, or a JSON object. Knows no network.

As VTAB-1k is released (`train800.txt`, `val200.txt`, `train800val200.txt`, `test.txt`), and FGVC by
VPT (`train.json`, `val.json`, `test.json`). An image that stands in two splits is refused: what
was trained on would be measured on.
"""

import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from training.data import VAL_SHARE, TaskData, class_faults, with_val
from training.decoding import Entry, How, refuse
from training.decoding import read as decoded
from training.errors import DataInvalidError
from training.labels import Classes, Line, counted, ranked

# Split → the names that its list has; the first that is there is read.
TEXTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        # The whole stands in for train, which val is then parted from.
        "train": ("train800.txt", "train.txt", "train800val200.txt"),
        "val": ("val200.txt", "val.txt"),
        "test": ("test.txt",),
    }
)
WHOLE: Final = TEXTS["train"][-1]
JSONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {split: (f"{split}.json",) for split in ("train", "val", "test")}
)
NAMES: Final = "labels.txt"  # of TEXTS: a name a line, in the order of labels, where there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a preset knows of its lists."""

    classes: int | None = None
    test: bool = False  # refuse to go without it
    images: str = ""  # folder that paths start from
    val_share: float = VAL_SHARE  # of train, where there is no list of val


def present(root: Path, files: Mapping[str, tuple[str, ...]] = TEXTS) -> bool:
    """Whether there is a list to train on."""
    return any((root / name).is_file() for name in files["train"])


def read(
    root: Path,
    how: How,
    *,
    seed: int = 0,
    files: Mapping[str, tuple[str, ...]] = TEXTS,
    wanted: Wanted | None = None,
    only: str | None = None,
) -> TaskData:
    """Every split that has a list, or what there is of one alone.

    Args:
        root: the folder of the lists.
        how: geometry, and what becomes of bad files.
        seed: of the share of train that becomes val, where val has no list.
        files: split → names of its list, `TEXTS` or `JSONS`.
        wanted: what is known of the data set.
        only: the split whose images are decoded; every list is looked at all the same.

    Raises:
        DataInvalidError: lists are missing, malformed or overlap, or name what cannot be used.
        PixelsTooManyError: the pixels fit nowhere.
    """
    wanted = Wanted() if wanted is None else wanted
    found = _chosen(root, files, wanted)
    faults: list[str] = []
    lines = {split: _lines(root / name, faults) for split, name in found.items()}
    refuse(str(root), faults)
    classes, strange = _classes(root, lines, wanted.classes, by_rank=files is JSONS)
    refuse(str(root), [*strange, *class_faults(classes.names), *_overlaps(lines, found)])
    entries = {
        split: [Entry(root / wanted.images / path, path, classes.position[n]) for path, n in rows]
        for split, rows in lines.items()
        if only in (None, split) or (split, only, "val" in lines) == ("train", "val", False)
    }
    images = decoded(str(root), classes.names, entries, how)
    return TaskData(
        classes=classes.names,
        splits=images.splits
        if "val" in lines or "train" not in entries
        else with_val(images.splits, seed, wanted.val_share),
        digest=images.digest,
        skipped=images.skipped,
    )


def parse(text: str) -> tuple[list[Line], list[str]]:
    """The lines of a list, and what is wrong with others; a path may hold spaces."""
    lines, faults = [], []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.strip().rsplit(maxsplit=1)
        if len(parts) == 2:
            lines.append((parts[0], parts[1]))
        elif parts:
            faults.append(f"line {number} is no path and label")
    return lines, faults


def parse_json(text: str) -> tuple[list[Line], list[str]]:
    """The entries of an object {path: label}, and what is wrong with it."""
    try:
        value = json.loads(text)
    except ValueError:
        return [], ["it is no JSON"]
    if not isinstance(value, dict) or not all(isinstance(v, int | str) for v in value.values()):
        return [], ["it is no JSON object of paths and labels"]
    return [(path, str(label)) for path, label in value.items()], []


def _chosen(root: Path, files: Mapping[str, tuple[str, ...]], wanted: Wanted) -> dict[str, str]:
    """Split → the list that is read."""
    found = {
        split: next((n for n in names if (root / n).is_file()), "")
        for split, names in files.items()
    }
    if found["train"] == WHOLE:
        found["val"] = ""  # its images are in the whole
    needed = ("train", "test") if wanted.test else ("train",)
    faults = [f"there is no {' or '.join(files[s])}" for s in needed if not found[s]]
    if wanted.images and not (root / wanted.images).is_dir():
        faults.append(f"there is no folder {wanted.images}/")
    refuse(str(root), faults if root.is_dir() else ["there is no such folder"])
    return {split: name for split, name in found.items() if name}


def _lines(file: Path, faults: list[str]) -> list[Line]:
    parser: Callable[[str], tuple[list[Line], list[str]]]
    parser = parse_json if file.suffix == ".json" else parse
    try:
        lines, found = parser(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        lines, found = [], [f"it cannot be read: {error}"]
    if not lines and not found:
        found = ["it lists no image"]
    faults += [f"{file.name}: {fault}" for fault in found]
    return lines


def _classes(
    root: Path, lines: Mapping[str, Sequence[Line]], count: int | None, *, by_rank: bool
) -> tuple[Classes, list[str]]:
    numbers = all(label.isdecimal() for _, label in lines["train"])
    if by_rank or (count is None and not numbers):
        return ranked(lines, count)
    return counted(lines, count, _names(root / NAMES))


def _names(file: Path) -> list[str] | None:
    try:
        return file.read_text("utf-8").splitlines() if file.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise DataInvalidError(str(file), (f"it cannot be read: {error}",)) from None


def _overlaps(lines: Mapping[str, Sequence[Line]], files: Mapping[str, str]) -> list[str]:
    """Images that two splits have."""
    seen: dict[str, set[str]] = {}
    for split, rows in lines.items():
        for path, _ in rows:
            seen.setdefault(posixpath.normpath(path), set()).add(files[split])
    twice = {path: sorted(where) for path, where in seen.items() if len(where) > 1}
    return [f"{path} is listed in {' and '.join(where)}" for path, where in sorted(twice.items())]
