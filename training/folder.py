"""An image folder on disk: train/<class>/*, val/…, test/…  Knows no network and no method.

Hidden files are passed over; links are followed; everything else in a class folder must be a
picture. All that is wrong is found before anything is refused, and images are decoded once.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adapters_store.errors import ImageInvalidError
from adapters_store.manifest import Preprocess, canonical
from adapters_store.pixels import pixels
from training.data import SPLITS, Split, TaskData, class_faults, with_val
from training.errors import DataInvalidError

LAYOUT: Final = "an image folder is train/<class>/*.jpg, and val/ and test/ like it"
_FAULTS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    name: str  # train/cat/1.jpg, whatever the file system
    label: int


def read(root: Path, preprocess: Preprocess, *, seed: int = 0) -> TaskData:
    """Every split of the folder; classes are the folders of train/, sorted by name.

    Args:
        root: the folder.
        preprocess: the geometry that images are brought into.
        seed: of the share of train that becomes val, where there is no val/.

    Raises:
        DataInvalidError: the layout is another, or images cannot be decoded; lists what and where.
    """
    classes = _folders(root / "train")
    if not classes:
        raise DataInvalidError(str(root), (_no_split(root, "train"),))
    _refuse(root, class_faults(classes))
    names = [s for s in SPLITS if (root / s).is_dir()]
    splits, digest = _read(root, names, classes, preprocess)
    return TaskData(classes=tuple(classes), splits=with_val(splits, seed), digest=digest)


def read_split(
    root: Path, split: str, labels: Sequence[str], preprocess: Preprocess, *, seed: int = 0
) -> Split:
    """One split alone, its classes in the order of an adapter's labels.

    Where there is no val/, "train" and "val" are the two parts that `read` makes of train/.

    Raises:
        DataInvalidError: no such split, a class that is none of the labels, undecodable images.
    """
    parted = split in ("train", "val") and not (root / "val").is_dir()
    source = "train" if parted else split
    if split not in SPLITS or not _folders(root / source):
        raise DataInvalidError(str(root), (_no_split(root, source),))
    splits, _ = _read(root, [source], labels, preprocess)
    found = with_val(splits, seed) if parted else splits
    if split not in found:
        raise DataInvalidError(str(root), (f"train/ has too few images to part {split} from it",))
    return found[split]


def _read(
    root: Path, names: Sequence[str], classes: Sequence[str], preprocess: Preprocess
) -> tuple[dict[str, Split], str]:
    faults: list[str] = []
    entries = {name: _entries(root, name, classes, faults) for name in names}
    _refuse(root, faults)
    splits, lines = {}, []
    for name, found in entries.items():
        images, hashes = _decode(found, preprocess, faults)
        labels = np.array([e.label for e in found], dtype=np.int64)
        splits[name] = Split(images=images, labels=labels)
        lines += [[e.name, e.label, sha] for e, sha in zip(found, hashes, strict=True)]
    _refuse(root, faults)
    table = canonical([list(classes), lines]).encode("utf-8", "surrogateescape")
    return splits, hashlib.sha256(table).hexdigest()


def _entries(root: Path, split: str, classes: Sequence[str], faults: list[str]) -> list[_Entry]:
    """The files of one split in the order of their names; what does not belong becomes a fault."""
    found: list[_Entry] = []
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
                found.append(_Entry(path, where, label))
        if split == "train" and name in folders and len(found) == before:
            faults.append(f"train/{name} holds no image")
    if not found:
        faults.append(f"{split}/ holds no image")
    return found


def _decode(
    entries: Sequence[_Entry], preprocess: Preprocess, faults: list[str]
) -> tuple[NDArray[np.uint8], list[str]]:
    """Pixels [N, 3, H, W] and the sha256 of each file; what cannot be decoded becomes a fault."""
    images = np.empty((len(entries), 3, *preprocess.size), dtype=np.uint8)

    def one(at: int) -> tuple[str, str]:
        try:
            data = entries[at].path.read_bytes()
            images[at] = pixels(data, preprocess)
        except ImageInvalidError as error:
            return "", f"{entries[at].name}: {error.reason}"
        except OSError as error:
            return "", f"{entries[at].name}: {error.strerror or error}"
        return hashlib.sha256(data).hexdigest(), ""

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        outcomes = list(pool.map(one, range(len(entries))))
    faults += [fault for _, fault in outcomes if fault]
    return images, [sha for sha, _ in outcomes]


def _folders(split: Path) -> list[str]:
    return [p.name for p in _visible(split) if p.is_dir()] if split.is_dir() else []


def _visible(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)


def _no_split(root: Path, split: str) -> str:
    if not root.is_dir():
        return "there is no such folder"
    return f"there is no class folder in {split}/: {LAYOUT}"


def _refuse(root: Path, faults: list[str]) -> None:
    if faults:
        shown = faults[:_FAULTS_SHOWN]
        if len(faults) > len(shown):
            shown.append(f"… and {len(faults) - len(shown)} more")
        raise DataInvalidError(str(root), tuple(shown))
