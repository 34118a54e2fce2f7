"""Packed tasks (`<task>.npz`) as arrays in a network's geometry. Knows no network and no method.

A pack holds `blob` (files one behind the other), `off` (n + 1 offsets), `label`, `split` (0 train,
1 val, 2 test) and `names`. Pixels are computed once by the path that serving uses, and kept beside
the results for all processes to share.
"""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters_store.manifest import Preprocess
from adapters_store.pixels import pixels
from training.data import SPLITS, TaskData, from_arrays


def tasks(folder: Path) -> tuple[str, ...]:
    """The tasks of a folder, by name."""
    return tuple(sorted(path.stem for path in folder.glob("*.npz")))


def task_data(pack: Path, preprocess: Preprocess, cache: Path) -> TaskData:
    """The three splits of a pack, in its own order."""
    with np.load(pack, allow_pickle=False) as packed:
        names = [str(name) for name in packed["names"]]
        labels, split = packed["label"].astype(np.int64), packed["split"]
    images = _images(pack, preprocess, cache)
    return from_arrays(
        names,
        {
            name: (images[split == number], labels[split == number])
            for number, name in enumerate(SPLITS)
        },
    )


def _images(pack: Path, preprocess: Preprocess, cache: Path) -> NDArray[np.uint8]:
    """uint8 [N, 3, H, W] of all files, from the cache if they are there."""
    geometry = f"{preprocess.geometry}-{preprocess.interpolation}-{preprocess.size[0]}"
    kept = cache / f"{pack.stem}-{geometry}-{pack.stat().st_size}.npy"
    if not kept.exists():
        with np.load(pack, allow_pickle=False) as packed:
            blob, off = packed["blob"], packed["off"]
        found = np.stack(
            [pixels(blob[begin:end].tobytes(), preprocess) for begin, end in pairwise(off)]
        )
        cache.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{kept.name}.{os.getpid()}.npy")
        np.save(part, found)
        part.replace(kept)
    images: NDArray[np.uint8] = np.load(kept, mmap_mode="r")
    return images
