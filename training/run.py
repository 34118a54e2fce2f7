"""Train one task: images in, artifact out. What the command and the demo call. Knows no folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from training.checkpoint import Checkpoint, discard
from training.data import TaskData
from training.errors import DataInvalidError, RecipeInvalidError
from training.evaluate import BATCH
from training.export import export
from training.loop import Fitted, fit
from training.ranks import ALONE, Ranks
from training.recipe import Recipe
from training.room import within_memory
from training.trunk import default_device
from training.watch import Epoch, Watch

NOBODY: Final = Watch()
_TRIAL: Final = "trial"  # the name of a task that is not published


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
    checkpoint: Checkpoint | None = None,
    protocol: Mapping[str, Any] | None = None,
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
        checkpoint: where the run is kept meanwhile; the file is gone when all went well.
        protocol: how settings were chosen and seeds drawn: JSON, recorded in the manifest as
            `provenance.recipe["protocol"]`. Nothing that varies between identical runs.

    Raises:
        NameInvalidError, MethodUnknownError, RecipeInvalidError, DataInvalidError: refused before
            anything is computed.
        CheckpointInvalidError: what is to be resumed is damaged, or another run's.
        DivergedError, MemoryExhaustedError, LawBrokenError, EffectFailedError: refused after.
    """
    fitted = fit_task(
        images,
        backbone,
        task,
        method,
        options,
        recipe,
        device=device,
        watch=watch,
        checkpoint=checkpoint,
    )
    made = export_task(
        fitted, images, backbone, task, method, options, recipe, device=device, protocol=protocol
    )
    if checkpoint is not None:
        discard(checkpoint)
    return made


def fit_task(
    images: TaskData,
    backbone: Backbone,
    task: str,
    method: str,
    options: Mapping[str, Any],
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    watch: Watch = NOBODY,
    checkpoint: Checkpoint | None = None,
    ranks: Ranks = ALONE,
) -> Fitted:
    """The first half of `train_task`: what each of several processes does.

    The checkpoint stays; of test images only the size is looked at.

    Raises:
        As `train_task`, but for what only an export finds.
    """
    parsed = parse_options(method, options)
    check_task(task, method, parsed, backbone.spec)
    check_sizes(task, images, backbone.spec)
    return fit(
        backbone,
        method,
        parsed,
        images,
        settled(recipe, method, parsed, backbone.spec),
        device=default_device() if device is None else device,
        watch=watch,
        checkpoint=checkpoint,
        ranks=ranks,
    )


def export_task(
    fitted: Fitted,
    images: TaskData,
    backbone: Backbone,
    task: str,
    method: str,
    options: Mapping[str, Any],
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    protocol: Mapping[str, Any] | None = None,
) -> TrainedTask:
    """The second half of `train_task`: every split is measured, test among them, once.

    Raises:
        DivergedError, MemoryExhaustedError, LawBrokenError, EffectFailedError
    """
    parsed = parse_options(method, options)
    used = settled(recipe, method, parsed, backbone.spec)
    where = default_device() if device is None else device
    with within_memory(where, BATCH):
        made = export(
            fitted,
            backbone,
            images,
            task=task,
            method=method,
            options=parsed,
            recipe=used,
            device=where,
            protocol=protocol,
        )
    return TrainedTask(
        adapter=made.adapter,
        data=made.data,
        parameters=count(made.adapter, backbone.spec),
        report=made.report,
        recipe=used,
        log=fitted.log,
    )


def tried(
    images: TaskData,
    backbone: Backbone,
    method: str,
    options: Mapping[str, Any],
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    watch: Watch = NOBODY,
) -> Epoch:
    """The last line of the log of a run whose adapter is not kept: a point of a search.

    Nothing is exported, and test images are left out.

    Raises:
        As `fit_task`.
    """
    seen = {name: split for name, split in images.splits.items() if name != "test"}
    data = replace(images, splits=seen)
    return fit_task(
        data, backbone, _TRIAL, method, options, recipe, device=device, watch=watch
    ).log[-1]


def settled(recipe: Recipe, method: str, options: MethodOptions, spec: BackboneSpec) -> Recipe:
    """The recipe as it is used: a head alone learns from fp32 features, those that are served.

    They are computed once, so it costs little.
    """
    if offered(method, spec).layout(options, spec):
        return recipe
    return recipe.model_copy(update={"precision": "fp32"})


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


def check_sizes(place: str, images: TaskData, spec: BackboneSpec) -> None:
    """Whether the network can read these images; `place` is what they are called.

    Raises:
        DataInvalidError
    """
    for name, split in images.splits.items():
        size = split.images.shape[2:]
        if size != spec.input_size:
            wanted = "{}x{}".format(*spec.input_size)
            fault = "images of {} are {}x{}, the backbone reads {}".format(name, *size, wanted)
            raise DataInvalidError(place, (fault,))
