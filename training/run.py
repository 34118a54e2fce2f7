"""Train one task: images in, artifact out. What the command and the demo call. Knows no folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone
from adapters_store.errors import NameInvalidError
from adapters_store.law import LawReport
from adapters_store.manifest import TASK_NAME
from adapters_store.methods.protocol import MethodOptions
from adapters_store.methods.table import count, offered, parse_options
from adapters_store.spec import BackboneSpec
from training.data import TaskData
from training.errors import DataInvalidError, RecipeInvalidError
from training.export import export
from training.loop import Epoch, Watch, fit
from training.recipe import Recipe
from training.trunk import default_device

NOBODY: Final = Watch()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedTask:
    """One trained task, ready to be published."""

    adapter: Adapter
    data: bytes  # of the artifact
    parameters: int  # trained numbers, the head excluded
    report: LawReport  # how far its three paths lie apart
    recipe: Recipe  # as it was used
    log: tuple[Epoch, ...]


def train_task(
    images: TaskData,
    backbone: Backbone,
    task: str,
    method: str,
    options: Mapping[str, Any],
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    watch: Watch = NOBODY,
) -> TrainedTask:
    """Train, export, hold to the law and write one task.

    Args:
        images: in the backbone's input size and the recipe's geometry.
        backbone: stays as it is.
        task: the name it will be published under.
        method: a row of METHODS.
        options: of the method; what is not given has its default.
        recipe: see `recipe.compose` and `recipe.PUBLISHED`.
        device: an accelerator if there is one, unless given.
        watch: is told of every step and epoch.

    Raises:
        NameInvalidError, MethodUnknownError, RecipeInvalidError, DataInvalidError: refused before
            anything is computed.
        DivergedError, LawBrokenError, EffectFailedError: refused after training.
    """
    parsed = parse_options(method, options)
    check_task(task, method, parsed, backbone.spec)
    for name, split in images.splits.items():
        size = split.images.shape[2:]
        if size != backbone.spec.input_size:
            wanted = "{}x{}".format(*backbone.spec.input_size)
            fault = "images of {} are {}x{}, the backbone reads {}".format(name, *size, wanted)
            raise DataInvalidError(task, (fault,))
    if not offered(method, backbone.spec).layout(parsed, backbone.spec):
        # Its features are computed once, so they may as well be the ones that will be served.
        recipe = recipe.model_copy(update={"precision": "fp32"})
    where = default_device() if device is None else device
    fitted = fit(backbone, method, parsed, images, recipe, device=where, watch=watch)
    made = export(
        fitted,
        backbone,
        images,
        task=task,
        method=method,
        options=parsed,
        recipe=recipe,
        device=where,
    )
    return TrainedTask(
        adapter=made.adapter,
        data=made.data,
        parameters=count(made.adapter, backbone.spec),
        report=made.report,
        recipe=recipe,
        log=fitted.log,
    )


def check_task(task: str, method: str, options: MethodOptions, spec: BackboneSpec) -> None:
    """Whether such a task can be trained at all, before any image is read.

    Raises:
        NameInvalidError: no name for a task.
        MethodUnknownError, RecipeInvalidError: the method is unknown, or does not fit the backbone.
    """
    if not TASK_NAME.fullmatch(task):
        raise NameInvalidError(task, TASK_NAME.pattern)
    try:
        offered(method, spec).layout(options, spec)
    except ValueError as error:
        raise RecipeInvalidError((str(error),)) from None
