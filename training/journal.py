"""What a campaign has done so far, on disk: one file an act, whole or not there.

Knows how outcomes are written, not how they come about. An act is known by everything that its
outcome follows from, so a journal of another run never answers.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapters_store import admission
from adapters_store.errors import RootstockError
from adapters_store.law import LawReport
from adapters_store.manifest import canonical
from training.acts import Item, Job
from training.files import whole, write_text
from training.full import FULL, TrainedModel
from training.identity import grounds
from training.protocol import Trial
from training.run import TrainedTask
from training.watch import Epoch

Outcome = Trial | TrainedTask | TrainedModel


class Journal:
    """The outcomes of acts, in a folder; without one, nothing is remembered."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def recall(self, job: Job, item: Item) -> Outcome | None:
        """The outcome of this very act, if it is known."""
        if self._folder is None:
            return None
        place = self._folder / _name(job, item)
        try:
            told = json.loads(place.with_suffix(".json").read_text())
            if item.protocol is None:
                last = told["last"]
                return Trial(point=item.point, last=None if last is None else Epoch(**last))
            data = place.with_suffix(".safetensors").read_bytes()
            recipe = item.point.recipe.model_validate(told["recipe"])
            log = tuple(Epoch(**row) for row in told["log"])
            if job.method == FULL:
                return TrainedModel(
                    data=data,
                    metrics=told["metrics"],
                    parameters=told["parameters"],
                    recipe=recipe,
                    log=log,
                )
            adapter = admission.admit(data, job.backbone.spec, task=job.task)
            return TrainedTask(
                adapter=adapter,
                data=data,
                parameters=told["parameters"],
                report=LawReport(**told["law"]),
                recipe=recipe,
                log=log,
            )
        except (OSError, ValueError, KeyError, TypeError, RootstockError):
            return None  # what cannot be read is done again

    def keep(self, job: Job, item: Item, outcome: Outcome) -> None:
        """Remember the outcome of an act."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        place = self._folder / _name(job, item)
        if isinstance(outcome, Trial):
            told: dict[str, Any] = {"last": None if outcome.last is None else asdict(outcome.last)}
        else:
            told = {
                "parameters": outcome.parameters,
                **(
                    {"law": asdict(outcome.report)}
                    if isinstance(outcome, TrainedTask)
                    else {"metrics": dict(outcome.metrics)}
                ),
                "recipe": outcome.recipe.model_dump(mode="json"),
                "log": [asdict(row) for row in outcome.log],
            }
            with whole(place.with_suffix(".safetensors")) as part:
                part.write_bytes(outcome.data)
        write_text(place.with_suffix(".json"), json.dumps(told))  # last: it says that all is there


def _name(job: Job, item: Item) -> str:
    known = {
        "task": job.task,
        "method": job.method,
        **grounds(job.data, job.backbone, item.point.recipe),
        "options": dict(item.point.options),
        "recipe": item.point.recipe.model_dump(mode="json"),
        "protocol": None if item.protocol is None else dict(item.protocol),
    }
    return "done-" + hashlib.sha256(canonical(known).encode()).hexdigest()[:32]
