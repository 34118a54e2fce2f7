"""Train several tasks at once on one backbone: images in, artifacts out. Knows no folder."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from adapters_store.backbone import Backbone
from adapters_store.methods.table import offered, parse_options
from training.abreast import fit_abreast
from training.data import TaskData
from training.errors import RecipeInvalidError
from training.mixture import MOST
from training.recipe import Recipe
from training.run import (
    NOBODY,
    TrainedTask,
    check_sizes,
    check_task,
    export_task,
    train_task,
)
from training.trunk import default_device
from training.watch import Watch


def train_tasks(
    data: Mapping[str, TaskData],
    backbone: Backbone,
    method: str,
    options: Mapping[str, Any],
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    watch: Callable[[str], Watch] = lambda _: NOBODY,
    protocol: Mapping[str, Any] | None = None,
) -> dict[str, TrainedTask]:
    """Train, export, hold to the law and write several tasks, in mixed batches.

    What each becomes is what `train_task` would make of it alone, up to rounding and to the draws
    of dropout. `recipe.batch` is of each task: a step takes so many images of every one. Tasks may
    have different classes and different numbers of images.

    Args:
        data: by the name that a task will be published under, in the backbone's input size.
        backbone: stays as it is.
        method: a row of METHODS, the same for all; where it has no sites (linear), features are
            computed once for each task anyway, and the tasks are trained one after another.
        options: of the method; what is not given has its default.
        recipe: the same for all.
        device: an accelerator if there is one, unless given.
        watch: by task, is told of its steps and epochs.
        protocol: as of `train_task`, the same for all.

    Raises:
        NameInvalidError, MethodUnknownError, RecipeInvalidError, DataInvalidError: refused before
            anything is computed.
        DivergedError, MemoryExhaustedError, LawBrokenError, EffectFailedError: refused after;
            nothing of the other tasks is kept.
    """
    parsed = parse_options(method, options)
    if not 0 < len(data) <= MOST:
        raise RecipeInvalidError((f"{len(data)} tasks: at least 1 and at most {MOST} go together",))
    for task, images in data.items():
        check_task(task, method, parsed, backbone.spec)
        check_sizes(task, images, backbone.spec)
    where = default_device() if device is None else device
    if not offered(method, backbone.spec).layout(parsed, backbone.spec):
        return {
            task: train_task(
                images,
                backbone,
                task,
                method,
                options,
                recipe,
                device=where,
                watch=watch(task),
                protocol=protocol,
            )
            for task, images in data.items()
        }
    found = fit_abreast(backbone, method, parsed, data, recipe, device=where, watch=watch)
    return {
        task: export_task(
            fitted,
            data[task],
            backbone,
            task,
            method,
            options,
            recipe,
            device=where,
            protocol=protocol,
        )
        for task, fitted in found.items()
    }
