"""Data sets by name, and the one way in for whoever has a folder. Knows no network and no method.

A layout is `vtab:<task>`, `fgvc:<data set>` or nothing; then the folder itself says what it is. A
preset's folder is the one that is given, or lies in it under its usual name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from adapters_store.manifest import Preprocess
from training import folder, lists
from training.data import SPLITS, Split, TaskData
from training.decoding import How
from training.errors import DataInvalidError, LayoutUnknownError
from training.recipe import Augment
from training.vtab import TASKS, task_named

VTAB_FOLDER: Final = "vtab-1k"
FGVC_VAL_SHARE: Final = 0.1  # of train, where no list of val is public (methods.md §9)


@dataclass(frozen=True, slots=True)
class FineGrained:
    """One data set of FGVC, with the lists of VPT beside its images."""

    classes: int
    folders: tuple[str, ...]  # names that its folder has in use
    images: str  # what paths in its lists start from


FGVC: Final[Mapping[str, FineGrained]] = MappingProxyType(
    {
        "cub": FineGrained(200, ("CUB_200_2011",), "images"),
        "nabirds": FineGrained(555, ("nabirds", "NABirds"), "images"),
        "flowers": FineGrained(102, ("OxfordFlower", "OxfordFlowers"), ""),
        "dogs": FineGrained(120, ("Stanford-dogs", "StanfordDogs"), "Images"),
        "cars": FineGrained(196, ("Stanford-cars", "StanfordCars"), ""),
    }
)
LAYOUTS: Final = (*(f"vtab:{task.name}" for task in TASKS), *(f"fgvc:{name}" for name in FGVC))


def open_data(
    place: Path,
    preprocess: Preprocess,
    *,
    layout: str | None = None,
    seed: int = 0,
    strict: bool = False,
    augment: Augment = "none",
    only: str | None = None,
) -> TaskData:
    """The images of a task, whatever the folder looks like.

    Args:
        place: the folder.
        preprocess: the geometry that images are brought into.
        layout: one of LAYOUTS; None: an image folder if there is train/, else list files.
        seed: of the share of train that becomes val, where there is no val.
        strict: refuse files that cannot be decoded, instead of leaving them out.
        augment: of the recipe; crops need a margin.
        only: of list files, the one split that is wanted; others are not decoded.

    Raises:
        LayoutUnknownError: there is no such preset.
        DataInvalidError: what is there is not what was asked for; lists what and where.
        PixelsTooManyError: the pixels fit nowhere.
    """
    how = How(preprocess=preprocess, strict=strict, augment=augment)
    kind, _, name = (layout or "").partition(":")
    if layout is None:
        if not (place / "train").is_dir() and lists.present(place):
            return lists.read(place, how, seed=seed, only=only)
        if place.is_dir() and not (place / "train").is_dir():
            fault = f"there is neither a folder train/ nor a list {lists.TEXTS['train'][0]}"
            raise DataInvalidError(str(place), (f"{fault}: {folder.LAYOUT}",))
        return folder.read(place, preprocess, seed=seed, strict=strict, augment=augment)
    if kind == "vtab":
        task = task_named(name)
        names = [
            f"{parent}{n}" for n in (task.name, *task.also) for parent in ("", f"{VTAB_FOLDER}/")
        ]
        known = lists.Wanted(classes=task.classes, test=True)
        root = _found(place, names, lists.TEXTS)
        return lists.read(root, how, seed=seed, wanted=known, only=only)
    if kind == "fgvc" and name in FGVC:
        own = FGVC[name]
        known = lists.Wanted(
            classes=own.classes, test=True, images=own.images, val_share=FGVC_VAL_SHARE
        )
        root = _found(place, own.folders, lists.JSONS)
        return lists.read(root, how, seed=seed, files=lists.JSONS, wanted=known, only=only)
    raise LayoutUnknownError(layout, LAYOUTS)


def open_split(
    place: Path,
    split: str,
    labels: Sequence[str],
    preprocess: Preprocess,
    *,
    layout: str | None = None,
    seed: int = 0,
    strict: bool = False,
) -> tuple[Split, tuple[str, ...]]:
    """One split, its classes in the order of an adapter's labels; and the files left out, and why.

    Raises:
        LayoutUnknownError, PixelsTooManyError: see `open_data`.
        DataInvalidError: likewise; or there is no such split, or a class that is none of `labels`.
    """
    if layout is None and (place / "train").is_dir() | (place / split).is_dir():
        return folder.read_split(place, split, labels, preprocess, seed=seed, strict=strict)
    data = open_data(place, preprocess, layout=layout, seed=seed, strict=strict, only=split)
    if split not in SPLITS or split not in data.splits:
        raise DataInvalidError(str(place), (f"there is no split {split!r}",))
    found = data.splits[split]
    used = {data.classes[at] for at in np.unique(found.labels)}
    if strangers := sorted(used - {*labels}):
        faults = tuple(f"{name!r} is no label of the adapter" for name in strangers)
        raise DataInvalidError(str(place), faults)
    order = {name: at for at, name in enumerate(labels)}
    places = np.array([order.get(name, -1) for name in data.classes], dtype=np.int64)
    return Split(images=found.images, labels=places[found.labels]), data.skipped


def _found(place: Path, names: Sequence[str], files: Mapping[str, tuple[str, ...]]) -> Path:
    """The folder of a preset's lists: the place itself, or one of these names in it."""
    if not place.is_dir():
        raise DataInvalidError(str(place), ("there is no such folder",))
    for root in (place, *(place / name for name in names)):
        if lists.present(root, files):
            return root
    wanted = " or ".join(files["train"])
    within = ", ".join(f"{name}/" for name in names)
    raise DataInvalidError(str(place), (f"there is no {wanted}, neither here nor in {within}",))
