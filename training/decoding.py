"""Files of pictures to the images of a task, before it is trained. Knows no layout, no network.

Training sees the very pixels that a server makes of the same bytes: both call
`adapters_store.pixels`. What cannot be decoded is listed and left out, or refused.
"""

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adapters_store.errors import ImageInvalidError
from adapters_store.manifest import Preprocess, canonical
from adapters_store.pixels import pixels
from training import spill
from training.augment import wide
from training.data import Split
from training.errors import DataInvalidError
from training.files import shown
from training.recipe import Augment

_FAULTS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One file that is listed as a picture of a class."""

    path: Path
    name: str  # train/cat/1.jpg, whatever the file system
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What is wanted of the files."""

    preprocess: Preprocess  # the geometry that images are brought into
    strict: bool = False  # refuse files that cannot be decoded, instead of leaving them out
    augment: Augment = "none"  # crops need a margin, which is then kept of train and val


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What the files hold."""

    splits: Mapping[str, Split]
    digest: str  # sha256 over classes, and over name, label and bytes of every file used
    skipped: tuple[str, ...]  # one line for each file that was left out


def read(
    place: str, classes: Sequence[str], entries: Mapping[str, Sequence[Entry]], how: How
) -> Decoded:
    """Every split's files, decoded in as many threads as there are cores.

    Args:
        place: what is named when something is refused.
        classes: in the order of labels.
        entries: split → its files.
        how: geometry, and what becomes of bad files.

    Raises:
        DataInvalidError: a split is left without images; with `strict`, any file cannot be decoded.
        PixelsTooManyError: the pixels fit nowhere.
    """
    splits, lines, skipped, empty = {}, [], list[str](), list[str]()
    for name, listed in entries.items():
        images, margins, outcomes = _decode(listed, how, margin=name != "test")
        labels = np.array([e.label for e in listed], dtype=np.int64)
        split = Split(images=images, labels=labels, wide=margins)
        good = np.array([not fault for _, fault in outcomes], dtype=np.bool_)
        skipped += [fault for _, fault in outcomes if fault]
        empty += [] if good.any() else [f"{name} has no image that can be read"]
        splits[name] = split if good.all() else split.where(good)
        lines += [
            [entry.name, entry.label, sha]
            for entry, (sha, fault) in zip(listed, outcomes, strict=True)
            if not fault
        ]
    if how.strict:
        refuse(place, skipped)
    if empty:
        refuse(place, [*empty, *skipped])
    table = canonical([list(classes), lines]).encode("utf-8", "surrogateescape")
    return Decoded(splits=splits, digest=hashlib.sha256(table).hexdigest(), skipped=tuple(skipped))


def refuse(place: str, faults: Sequence[str]) -> None:
    """Nothing where there is no fault.

    Raises:
        DataInvalidError: with the first twenty, and how many more there are.
    """
    if faults:
        shown = list(faults[:_FAULTS_SHOWN])
        if len(faults) > len(shown):
            shown.append(f"… and {len(faults) - len(shown)} more")
        raise DataInvalidError(place, tuple(shown))


def _decode(
    entries: Sequence[Entry], how: How, *, margin: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, list[tuple[str, str]]]:
    """Pixels, pixels with a margin, and each file's sha256 or what is wrong with it."""
    images = spill.room((len(entries), 3, *how.preprocess.size))
    around = wide(how.preprocess) if margin and how.augment != "none" else None
    margins = None if around is None else spill.room((len(entries), 3, *around.size))

    def one(at: int) -> tuple[str, str]:
        name, path = shown(entries[at].name), entries[at].path
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
                return "", f"{name}: it is no regular file"
            data = path.read_bytes()
        except OSError as error:
            return "", f"{name}: {error.strerror or error}"
        except ValueError as error:  # a name that no file has, with a NUL in it
            return "", f"{name}: {error}"
        try:
            images[at] = pixels(data, how.preprocess)
            if around is not None and margins is not None:
                margins[at] = pixels(data, around)  # decoding may depend on the size that is wanted
        except ImageInvalidError as error:
            return "", f"{name}: {error.reason}"
        return hashlib.sha256(data).hexdigest(), ""

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        outcomes = list(pool.map(one, range(len(entries))))
    return images, margins, outcomes
