"""The images of one task in memory, split by split. Knows no folder, no network and no tensor."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adapters_store.manifest import canonical
from training import spill
from training.errors import DataInvalidError

SPLITS: Final = ("train", "val", "test")
VAL_SHARE: Final = 0.2  # of train, where there are no images for val
_LABEL_CHARACTERS: Final = 200  # that a manifest holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Images that are used for one purpose, already in the network's geometry."""

    images: NDArray[np.uint8]  # [N, 3, H, W]
    labels: NDArray[np.int64]  # [N], positions in the task's classes
    # [N, 3, H', W'] with a margin around what is served, where crops are to be drawn from it.
    wide: NDArray[np.uint8] | None = None

    def where(self, chosen: NDArray[np.bool_]) -> "Split":
        """The images for which `chosen` [N] is true, in the same order."""
        rows = np.flatnonzero(chosen)
        return Split(
            images=spill.chosen(self.images, rows),
            labels=self.labels[rows],
            wide=None if self.wide is None else spill.chosen(self.wide, rows),
        )

    def then(self, other: "Split") -> "Split":
        """These images, and the other's behind them."""
        wide = None
        if self.wide is not None and other.wide is not None:
            wide = spill.joined((self.wide, other.wide))
        return Split(
            images=spill.joined((self.images, other.images)),
            labels=np.concatenate([self.labels, other.labels]),
            wide=wide,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """Everything a task is trained and measured on."""

    classes: tuple[str, ...]  # the rows of the head, in this order
    splits: Mapping[str, Split]  # "train", and "val" and "test" where there are such images
    digest: str  # sha256 over all images and labels, whatever split they came from
    skipped: tuple[str, ...] = ()  # files left out because nothing can decode them, and why

    @property
    def train(self) -> Split:
        """What the adapter learns from."""
        return self.splits["train"]

    @property
    def val(self) -> Split | None:
        """What settings are chosen on, if there is any."""
        return self.splits.get("val")

    def with_trainval(self) -> "TaskData":
        """The same images for a final run: train is train and then val, and there is no val.

        The digest stays, for it is the same images.
        """
        if self.val is None:
            return self
        rest = {name: split for name, split in self.splits.items() if name not in ("train", "val")}
        return replace(self, splits={"train": self.train.then(self.val), **rest})


def from_arrays(
    classes: Sequence[str],
    splits: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.integer]]],
    *,
    seed: int = 0,
) -> TaskData:
    """A task from images in memory: split name → (uint8 [N, 3, H, W], labels [N]).

    Without "val", a seeded and stratified fifth of train takes its place.

    Raises:
        DataInvalidError: shapes, dtypes, labels or names do not go together.
    """
    faults = class_faults(classes)
    for name, (images, labels) in splits.items():
        faults += _array_faults(name, images, labels, len(classes))
    if "train" not in splits:
        faults.append("there is no split 'train'")
    if faults:
        raise DataInvalidError("arrays", tuple(faults))
    named = {
        name: Split(images=images, labels=labels.astype(np.int64))
        for name, (images, labels) in splits.items()
    }
    proof = hashlib.sha256(canonical(list(classes)).encode())
    for name, split in sorted(named.items()):
        proof.update(canonical([name, list(split.images.shape)]).encode())
        proof.update(split.labels.astype("<i8").tobytes())
        proof.update(np.ascontiguousarray(split.images).tobytes())
    return TaskData(classes=tuple(classes), splits=with_val(named, seed), digest=proof.hexdigest())


def with_val(splits: Mapping[str, Split], seed: int, share: float = VAL_SHARE) -> dict[str, Split]:
    """The same splits; where val is missing, a share of train has become val."""
    if "val" in splits:
        return dict(splits)
    held = hold_out(splits["train"].labels, share, seed)
    parts = {"train": splits["train"].where(~held), "val": splits["train"].where(held)}
    whole = {**splits, **parts}
    return {name: split for name, split in whole.items() if len(split.labels)}


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """A seeded choice of `share` of every class: bool [N].

    A class of two or more images gives at least one and keeps at least one; a single image stays.
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    return held


def class_faults(classes: Sequence[str]) -> list[str]:
    """What makes these names unfit to be the labels of an adapter."""
    faults = []
    if len(classes) < 2:
        faults.append(f"a task has two classes or more, this has {len(classes)}")
    if len(set(classes)) != len(classes):
        faults.append("two classes have the same name")
    for name in classes:
        if not 0 < len(name) <= _LABEL_CHARACTERS or not name.isprintable():
            shown = name[:40].encode("ascii", "backslashreplace").decode()
            faults.append(f"'{shown}' is no class name: 1 to 200 printable characters")
    return faults


def _array_faults(
    name: str, images: NDArray[np.uint8], labels: NDArray[np.integer], classes: int
) -> list[str]:
    faults = []
    if name not in SPLITS:
        faults.append(f"split {name!r} is none of {', '.join(SPLITS)}")
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        faults.append(
            f"images of {name} are {images.dtype}{list(images.shape)}, not uint8[N,3,H,W]"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        faults.append(f"labels of {name} are not one integer an image")
    elif not len(labels):
        faults.append(f"split {name} is empty")
    elif labels.min() < 0 or labels.max() >= classes:
        faults.append(f"labels of {name} are not all within 0 … {classes - 1}")
    return faults
