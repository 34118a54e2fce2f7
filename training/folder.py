"""An image folder on disk: train/<class>/*, val/…, test/…  Knows no network and no method.

Hidden files are passed over; links are followed; everything else in a class folder should be a
picture. All that is wrong is found before anything is refused, and images are decoded once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from adapters_store.manifest import Preprocess
from training.data import SPLITS, Split, TaskData, class_faults, with_val
from training.decoding import Entry, How, refuse
from training.decoding import read as decoded
from training.errors import DataInvalidError
from training.recipe import Augment

LAYOUT: Final = "an image folder is train/<class>/*.jpg, and val/ and test/ like it"


def read(
    root: Path,
    preprocess: Preprocess,
    *,
    seed: int = 0,
    strict: bool = False,
    augment: Augment = "none",
) -> TaskData:
    """Every split of the folder; classes are the folders of train/, sorted by name.

    Args:
        root: the folder.
        preprocess: the geometry that images are brought into.
        seed: of the share of train that becomes val, where there is no val/.
        strict: refuse files that cannot be decoded, instead of leaving them out.
        augment: of the recipe; crops need a margin.

    Raises:
        DataInvalidError: the layout is another, a class or a split is left without images, or,
            with `strict`, a file cannot be decoded; lists what and where.
        PixelsTooManyError: the pixels fit nowhere.
    """
    classes = _folders(root / "train")
    if not classes:
        raise DataInvalidError(str(root), (_no_split(root, "train"),))
    refuse(str(root), class_faults(classes))
    names = [s for s in SPLITS if (root / s).is_dir()]
    how = How(preprocess=preprocess, strict=strict, augment=augment)
    found = decoded(str(root), classes, _listed(root, names, classes), how)
    left = np.bincount(found.splits["train"].labels, minlength=len(classes))
    emptied = [
        f"train/{name} has no image that can be read"
        for name, count in zip(classes, left, strict=True)
        if not count
    ]
    if emptied:
        refuse(str(root), [*emptied, *found.skipped])
    return TaskData(
        classes=tuple(classes),
        splits=with_val(found.splits, seed),
        digest=found.digest,
        skipped=found.skipped,
    )


def read_split(
    root: Path,
    split: str,
    labels: Sequence[str],
    preprocess: Preprocess,
    *,
    seed: int = 0,
    strict: bool = False,
) -> tuple[Split, tuple[str, ...]]:
    """One split alone, its classes in the order of an adapter's labels; and what it leaves out.

    Where there is no val/, "train" and "val" are the two parts that `read` makes of train/.

    Raises:
        DataInvalidError: no such split, a class that is none of the labels, no image that can be
            decoded or, with `strict`, one that cannot.
    """
    parted = split in ("train", "val") and not (root / "val").is_dir()
    source = "train" if parted else split
    if split not in SPLITS or not _folders(root / source):
        raise DataInvalidError(str(root), (_no_split(root, source),))
    how = How(preprocess=preprocess, strict=strict)
    read = decoded(str(root), labels, _listed(root, [source], labels), how)
    found = with_val(read.splits, seed) if parted else read.splits
    if split not in found:
        raise DataInvalidError(str(root), (f"train/ has too few images to part {split} from it",))
    return found[split], read.skipped


def _listed(root: Path, names: Sequence[str], classes: Sequence[str]) -> dict[str, list[Entry]]:
    faults: list[str] = []
    entries = {name: _entries(root, name, classes, faults) for name in names}
    refuse(str(root), faults)
    return entries


def _entries(root: Path, split: str, classes: Sequence[str], faults: list[str]) -> list[Entry]:
    """The files of one split in the order of their names; what does not belong becomes a fault."""
    found: list[Entry] = []
    folders = _folders(root / split)
    strangers = [folder for folder in folders if folder not in classes]
    faults += [f"{split}/{name}: {name!r} is no class of train/" for name in strangers]
    for label, name in enumerate(classes):
        before = len(found)
        for path in _visible(root / split / name) if name in folders else ():
            where = f"{split}/{name}/{path.name}"
            if path.is_dir():
                faults.append(f"{where} is a folder; images lie directly in their class's folder")
            else:
                found.append(Entry(path, where, label))
        if split == "train" and name in folders and len(found) == before:
            faults.append(f"train/{name} holds no image")
    if not found:
        faults.append(f"{split}/ holds no image")
    return found


def _folders(split: Path) -> list[str]:
    return [p.name for p in _visible(split) if p.is_dir()] if split.is_dir() else []


def _visible(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)


def _no_split(root: Path, split: str) -> str:
    if not root.is_dir():
        return "there is no such folder"
    return f"there is no class folder in {split}/: {LAYOUT}"
