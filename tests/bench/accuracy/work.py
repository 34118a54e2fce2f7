"""One unit of work in one process: train, measure, say what came out. Knows no schedule.

Search points never see a test image; a final run answers the test split once, after its last
epoch.
"""

import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from adapters_store import backbone as backbones
from adapters_store.backbone import Backbone
from tests.bench.accuracy.packs import task_data
from tests.bench.accuracy.rows import FULL, SEEDS, Plan, points
from tests.bench.accuracy.units import POINT, Result, Unit
from training import full, protocol
from training.data import Split, TaskData
from training.errors import DivergedError
from training.protocol import Point, Trial
from training.run import export_task, fit_task, tried
from training.trunk import default_device
from training.watch import Epoch

_LAW = 8  # images that an export holds its law against


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a process finds what it works with."""

    data: Path
    weights: Path | None
    cache: Path
    threads: int


_HERE: dict[str, Place] = {}


def open_shop(place: Place) -> None:
    """Called once in each process."""
    torch.set_num_threads(place.threads)
    _HERE["place"] = place


@lru_cache(maxsize=1)
def frozen(name: str) -> Backbone:
    """The backbone of this process."""
    return backbones.load(name, _HERE["place"].weights)


@lru_cache(maxsize=2)
def images(name: str, task: str) -> TaskData:
    """A task's images for that backbone."""
    place, spec = _HERE["place"], frozen(name).spec
    return task_data(place.data / f"{task}.npz", spec.preprocess(), place.cache)


def perform(unit: Unit, plan: Plan, found: list[Result | None]) -> Result:
    """The result of a unit; `found` is the search that a final run rests on: last epochs."""
    begun = time.monotonic()
    data = images(plan.backbone, unit.task)
    choices = points(unit.method, plan)
    if unit.kind == POINT:
        result = _try(unit, plan, choices[unit.number], data)
    else:
        lasts = [None if last is None else Epoch(**last) for last in found]
        # Without a search there is one point, and nothing to tell of it.
        trials = [Trial(point=p, last=last) for p, last in zip(choices, lasts, strict=False)]
        chosen = protocol.choose(trials) if trials else 0
        result = _finish(unit, plan, choices[chosen], trials, data)
        result["chosen"] = chosen
    return {**result, "seconds": round(time.monotonic() - begun, 1)}


def _try(unit: Unit, plan: Plan, point: Point, data: TaskData) -> Result:
    seen, backbone = protocol.searchable(data), frozen(plan.backbone)
    told: Result = {"settings": dict(point.settings), "last": None}
    try:
        if unit.method == FULL:
            log = full.fit_full(backbone, seen, point.recipe, device=default_device()).log
        else:
            log = (tried(seen, backbone, unit.method, point.options, point.recipe),)
    except DivergedError:
        return told
    return {**told, "last": asdict(log[-1])}


def _finish(unit: Unit, plan: Plan, point: Point, trials: list[Trial], data: TaskData) -> Result:
    whole = data.with_trainval()
    told: Result = {"settings": dict(point.settings), "test_top1": None}
    recipe = point.recipe.model_copy(update={"seed": unit.number})
    backbone, device = frozen(plan.backbone), default_device()
    # What export and measurement see: all of test, and of train what the law is held against.
    first = Split(images=whole.train.images[:_LAW], labels=whole.train.labels[:_LAW])
    measured = replace(whole, splits={"train": first, "test": whole.splits["test"]})
    try:
        if unit.method == FULL:
            model = full.fit_full(backbone, whole, recipe, device=device)
            metrics = full.accuracies(model, backbone, measured, recipe, device)
            size = sum(p.numel() for p in model.net.parameters())
        else:
            kind, options = unit.method, point.options
            fitted = fit_task(whole, backbone, unit.task, kind, options, recipe)
            record = protocol.record(trials, range(SEEDS), kept_val=True)
            made = export_task(
                fitted, measured, backbone, unit.task, kind, options, recipe, protocol=record
            )
            metrics, size = dict(made.adapter.manifest.metrics), made.parameters
    except DivergedError:
        return told
    return {**told, "test_top1": metrics["test"], "parameters": size}
