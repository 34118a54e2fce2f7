"""What one run of a campaign is, and who does it. Knows the trainer, no search and no Ray.

An act is done whole by one process, or by several together (`Ranks`); of those the first one
answers. No run is given test images while it is fitted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from adapters_store.backbone import Backbone
from training.checkpoint import Checkpoint
from training.data import TaskData
from training.errors import DivergedError
from training.full import FULL, FullyFitted, TrainedModel, fit_full, model_of
from training.loop import Fitted
from training.protocol import Point, Trial
from training.ranks import ALONE, Ranks
from training.run import TrainedTask, export_task, fit_task
from training.trunk import default_device
from training.watch import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all acts of one kind share; it may be sent to other processes, once."""

    data: TaskData
    backbone: Backbone
    task: str
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One run: a point of the search, or a seed of the final ones."""

    name: str  # for people: `point 2/6: lr=0.01`, `seed 1`
    point: Point
    protocol: Mapping[str, Any] | None = None  # for the manifest; of final runs
    checkpoint: Checkpoint | None = None


# None from every process but the first.
Act = Callable[[Job, Item, Watch, Ranks], Any]


class Hands(Protocol):
    """Where acts are done."""

    def each(self, act: Act, job: Job, items: Sequence[Item]) -> Iterator[tuple[int, Any]]:
        """Do the act for every item; pairs of an item's place and its outcome, as they come."""


@dataclass(frozen=True, slots=True)
class Here:
    """This process, one item after another."""

    watching: Callable[[str], Watch]  # by an item's name

    def each(self, act: Act, job: Job, items: Sequence[Item]) -> Iterator[tuple[int, Any]]:
        """In the order of the items."""
        for at, item in enumerate(items):
            yield at, act(job, item, self.watching(item.name), ALONE)


def attempt(job: Job, item: Item, watch: Watch, ranks: Ranks) -> Trial | None:
    """Try a point of the search: train on train, look at val, keep nothing.

    A run that diverges is a bad point and no reason to end the search.

    Raises:
        TrainingError: as `training.run.fit_task`, but for that.
    """
    try:
        last = fitted(job, item, watch, ranks).log[-1]
    except DivergedError:
        last = None
    return Trial(point=item.point, last=last) if ranks.first else None


def finish(job: Job, item: Item, watch: Watch, ranks: Ranks) -> TrainedTask | TrainedModel | None:
    """Train a final run and export it; test is answered here, once.

    Raises:
        TrainingError: as `training.run.train_task`.
    """
    found = fitted(job, item, watch, ranks)
    if not ranks.first:
        return None
    if isinstance(found, FullyFitted):
        return model_of(found, job.data, job.backbone, item.point.recipe)
    return export_task(
        found,
        job.data,
        job.backbone,
        job.task,
        job.method,
        item.point.options,
        item.point.recipe,
        protocol=item.protocol,
    )


def fitted(job: Job, item: Item, watch: Watch, ranks: Ranks) -> Fitted | FullyFitted:
    """The trained run; what it is fitted on holds no test images."""
    seen = {name: split for name, split in job.data.splits.items() if name != "test"}
    data = replace(job.data, splits=seen)
    if job.method == FULL:
        return fit_full(
            job.backbone,
            data,
            item.point.recipe,
            device=default_device(),
            watch=watch,
            checkpoint=item.checkpoint,
            ranks=ranks,
        )
    return fit_task(
        data,
        job.backbone,
        job.task,
        job.method,
        item.point.options,
        item.point.recipe,
        watch=watch,
        checkpoint=item.checkpoint,
        ranks=ranks,
    )
