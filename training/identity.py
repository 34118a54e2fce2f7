"""What a run's outcome follows from, as JSON: who goes on from it must have the same. Pure.

Knows neither how a run is kept nor how it is trained.
"""

import hashlib
from typing import Any

import numpy as np

from adapters_store.backbone import Backbone
from training.data import Split, TaskData
from training.recipe import Recipe
from training.versions import versions


def grounds(data: TaskData, backbone: Backbone, recipe: Recipe) -> dict[str, Any]:
    """Images in their order, the network, what it is shown, and the libraries.

    The recipe itself is not among it: who asks knows which of its fields count.
    """
    return {
        "data": data.digest,
        "images": {name: len(split.labels) for name, split in data.splits.items()},
        # The digest above is of all images; which of them are val is drawn, and so is the order
        # of train and val put together.
        "order": {
            name: _order(split) for name, split in data.splits.items() if name in ("train", "val")
        },
        "backbone": backbone.spec.ref.model_dump(mode="json"),
        "preprocess": recipe.preprocess(backbone.spec).model_dump(mode="json"),
        "versions": versions(),
    }


def _order(split: Split) -> str:
    """sha256 over labels and each image's middle row: labels alone are often sorted."""
    proof = hashlib.sha256(split.labels.astype("<i8").tobytes())
    middle = split.images.shape[2] // 2
    proof.update(np.ascontiguousarray(split.images[:, :, middle]).tobytes())
    return proof.hexdigest()
