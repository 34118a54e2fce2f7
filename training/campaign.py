"""A search and its final runs: which acts are done, in what order, and what is remembered.

Knows no command and no Ray; hands decide where an act is done. A search is given no test images
(`protocol.searchable`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.acts import Act, Hands, Item, Job, attempt, finish
from training.checkpoint import Checkpoint, discard
from training.full import TrainedModel
from training.journal import Journal
from training.protocol import Point, Trial, choose, record, searchable, settings_text
from training.run import TrainedTask

Made = TrainedTask | TrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A campaign that has ended."""

    trials: tuple[Trial, ...]
    runs: tuple[
        TrainedTask | TrainedModel, ...
    ]  # one a seed, in order; the first is the one that is kept
    protocol: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What is to be done, and who does it."""

    job: Job  # its data has every split
    points: Sequence[Point]  # to choose among; a single one is taken without a search
    seeds: Sequence[int]
    hands: Hands
    journal: Journal
    checkpoints: Path | None = None  # a folder; None: runs are not kept meanwhile
    on_trial: Callable[[int, Trial], None] = lambda _at, _trial: None

    def run(self) -> Outcome:
        """Search, choose, train on train and val with every seed, answer test once each.

        Raises:
            DataInvalidError: there is nothing to choose on.
            RecipeInvalidError: all points diverged.
            TrainingError: as `training.run.train_task`.
        """
        trials: tuple[Trial, ...] = ()
        chosen = self.points[0]
        if len(self.points) > 1:
            trials = self._searched()
            chosen = self.points[choose(trials)]
        told = record(trials, self.seeds, kept_val=self.job.data.val is not None)
        return Outcome(trials=trials, runs=self._finished(chosen, told), protocol=told)

    def _searched(self) -> tuple[Trial, ...]:
        count = len(self.points)
        items = [
            Item(
                name=f"point {at}/{count}: {settings_text(point.settings)}",
                point=point,
                checkpoint=self._checkpoint(f"point-{at}"),
            )
            for at, point in enumerate(self.points, 1)
        ]
        job = replace(self.job, data=searchable(self.job.data))
        return tuple(self._done(attempt, job, items, self.on_trial))

    def _finished(self, chosen: Point, told: dict[str, Any]) -> tuple[Made, ...]:
        items = [
            Item(
                name=f"seed {seed}",
                point=replace(chosen, recipe=chosen.recipe.model_copy(update={"seed": seed})),
                protocol=told,
                checkpoint=self._checkpoint(f"seed-{seed}"),
            )
            for seed in self.seeds
        ]
        job = replace(self.job, data=self.job.data.with_trainval())
        return tuple(self._done(finish, job, items, lambda _at, _made: None))

    def _done(
        self, act: Act, job: Job, items: Sequence[Item], told: Callable[[int, Any], None]
    ) -> list[Any]:
        """Every outcome in the order of the items; what the journal knows is not done again."""
        found = {at: self.journal.recall(job, item) for at, item in enumerate(items)}
        found = {at: known for at, known in found.items() if known is not None}
        for at, known in found.items():
            told(at, known)
        rest = [at for at in range(len(items)) if at not in found]
        for place, outcome in self.hands.each(act, job, [items[at] for at in rest]):
            at = rest[place]
            self.journal.keep(job, items[at], outcome)
            if (checkpoint := items[at].checkpoint) is not None:
                discard(checkpoint)
            found[at] = outcome
            told(at, outcome)
        return [found[at] for at in range(len(items))]

    def _checkpoint(self, name: str) -> Checkpoint | None:
        if self.checkpoints is None:
            return None
        return Checkpoint(path=self.checkpoints / f"{name}.checkpoint", resume=True)
