"""Tasks trained in mixed batches against the same tasks one after another. Knows no image file.

Both arms run the trainer as it is, on random images, and are timed from their first step to their
last: building networks and sites, which the mixed run does once, is left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import torch

from adapters_store.backbone import Backbone
from adapters_store.methods.table import parse_options
from rootstock.bench.adapters import Choice
from rootstock.bench.setting import Row, Tell, public, timing
from rootstock.bench.stopwatch import Stopwatch
from rootstock.bench.turns import Spread, quotients, take_turns
from training.abreast import fit_abreast
from training.data import Split, TaskData
from training.loop import fit
from training.recipe import PUBLISHED, Precision

_CLASSES: Final = 10


def measure(
    name: str,
    backbone: Backbone,
    methods: Sequence[Choice],
    tasks: int,
    batches: Sequence[int],
    precision: Precision,
    device: torch.device,
    steps: int,
    rounds: int,
    tell: Tell,
) -> Iterator[Row]:
    """Two rows a method and batch: `together` and `alone`; ratios of speed are to `alone`.

    Args:
        name: of the backbone, as the user gave it.
        backbone: what is trained on.
        methods: each with its published recipe, dropout and stochastic depth included.
        tasks: how many there are.
        batches: images of each task in a step.
        precision: of the network.
        device: where.
        steps: that are timed in a turn, of every task.
        rounds: turns of each arm.
        tell: told what is being done.
    """
    for method in methods:
        for batch in batches:
            tell.doing(f"{method.name}, {tasks} tasks, {batch} images of each in a step")
            arms = _arms(backbone, method, tasks, batch, precision, device, steps)
            turns = take_turns(arms, rounds)
            seconds = {arm: [turn.result for turn in taken] for arm, taken in turns.items()}
            for arm in arms:
                ratio = Spread.of(quotients(seconds["alone"], seconds[arm]))
                yield {
                    "bench": "together",
                    "system": arm,
                    "method": method.name,
                    "backbone": public(name),
                    "dtype": precision,
                    "device": device.type,
                    "threads": torch.get_num_threads(),
                    "tasks": tasks,
                    "batch": batch,
                    "ratio": round(ratio.median, 4),
                    "quartiles": [round(q, 4) for q in ratio.quartiles],
                    "runs": rounds,
                    **timing(Spread.of(seconds[arm]), tasks * batch * steps),
                }


def _arms(
    backbone: Backbone,
    method: Choice,
    tasks: int,
    batch: int,
    precision: Precision,
    device: torch.device,
    steps: int,
) -> Mapping[str, Callable[[], float]]:
    """Each arm's turn: seconds of its steps, the first of every run left out."""
    options = parse_options(method.method, method.options)
    recipe = PUBLISHED[method.method].model_copy(
        update={"epochs": 1, "batch": batch, "precision": precision}
    )
    data = {f"task-{n}": _noise(backbone, batch * (steps + 1), n) for n in range(tasks)}

    def together() -> float:
        clocks = {task: Stopwatch(device) for task in data}
        fit_abreast(
            backbone,
            method.method,
            options,
            data,
            recipe,
            device=device,
            watch=lambda task: clocks[task].watch,
        )
        return max(clock.seconds for clock in clocks.values())

    def alone() -> float:
        total = 0.0
        for images in data.values():
            clock = Stopwatch(device)
            fit(backbone, method.method, options, images, recipe, device=device, watch=clock.watch)
            total += clock.seconds
        return total

    return {"alone": alone, "together": together}


def _noise(backbone: Backbone, images: int, seed: int) -> TaskData:
    """A task of random images, without any to validate on."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (images, 3, *backbone.spec.input_size), np.uint8)
    labels = rng.integers(0, _CLASSES, images)
    return TaskData(
        classes=tuple(f"class {n}" for n in range(_CLASSES)),
        splits={"train": Split(images=pixels, labels=labels)},
        digest=f"noise {seed}",
    )
