"""How settings are chosen: on validation images, the test split out of reach. Pure planning.

A grid of points is tried with one seed; the one with the best validation accuracy after its last
epoch is taken, the first among equals; then train and val together teach the final runs, one a
seed. Knows no network, no process and no file.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any, Final

from training.data import TaskData
from training.errors import DataInvalidError, RecipeInvalidError
from training.grids import GRIDS
from training.recipe import Recipe
from training.watch import Epoch

POINTS_MANY: Final = 24  # the best of more fits a few hundred validation images by luck
POINTS_MAX: Final = 1_000  # a manifest names them all
SEEDS_MAX: Final = 1_000
# Images are read once, for all points; seeds are not chosen among.
_FIXED: Final = ("geometry", "normalise", "augment", "seed")
_SCORE: Final = "val_accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One set of settings, ready to be tried."""

    settings: Mapping[str, Any]  # what the sweep varies, and nothing else
    options: Mapping[str, Any]  # of the method
    recipe: Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A point that was tried."""

    point: Point
    last: Epoch | None  # of its epochs; None: it diverged

    @property
    def val_accuracy(self) -> float | None:
        """After the last epoch; None of a point that diverged."""
        return None if self.last is None else self.last.val_accuracy


def parse_axes(items: Sequence[str], method: str) -> dict[str, tuple[Any, ...]]:
    """`key=v1,v2,…` texts as a table; `key` alone stands for what papers searched (`GRIDS`).

    Values are read as JSON where all of them are JSON, else as texts between commas.

    Raises:
        RecipeInvalidError: every item that is malformed, given twice, or not to be swept.
    """
    found: dict[str, tuple[Any, ...]] = {}
    faults = []
    for item in items:
        key, equals, text = item.partition("=")
        values = _values(text) if equals else GRIDS.get(method, {}).get(key, ())
        if not key:
            faults.append(f"{item!r} is not key=value,value,…")
        elif key in _FIXED:
            faults.append(f"{key} is not to be swept" + _INSTEAD.get(key, _READ_ONCE))
        elif key in found:
            faults.append(f"{key} is swept twice")
        elif not equals and not values:
            faults.append(f"no paper's values of {key} are known for {method}: {key}=value,value,…")
        elif not values or any(value == "" for value in values):
            faults.append(f"{key} has an empty value")
        elif any(value in values[:at] for at, value in enumerate(values)):
            faults.append(f"{key} has the same value twice")
        else:
            found[key] = values
    if not faults and (count := math.prod(map(len, found.values()))) > POINTS_MAX:
        faults.append(f"a grid of {count} points; at most {POINTS_MAX} are tried")
    if faults:
        raise RecipeInvalidError(tuple(faults))
    return found


_READ_ONCE: Final = ": images are read once for all points"
_INSTEAD: Final = {"seed": ": seeds are run, not chosen (--seeds)"}


def grid(axes: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], ...]:
    """Every combination; the last axis varies fastest."""
    return tuple(
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    )


def searchable(data: TaskData) -> TaskData:
    """What a search is given: train and val. The test split is not among it.

    Raises:
        DataInvalidError: there is no val to choose on.
    """
    if data.val is None:
        fault = "no validation images to choose settings on, and too few to part any from train"
        raise DataInvalidError("search", (fault,))
    return replace(data, splits={"train": data.train, "val": data.val})


def choose(trials: Sequence[Trial]) -> int:
    """The place of the trial with the best validation accuracy; ties go to the first.

    Raises:
        RecipeInvalidError: every point diverged.
    """
    scores = [-1.0 if trial.val_accuracy is None else trial.val_accuracy for trial in trials]
    best = max(range(len(scores)), key=scores.__getitem__)
    if scores[best] < 0:
        raise RecipeInvalidError(("every point of the sweep diverged: try smaller rates",))
    return best


def record(trials: Sequence[Trial], seeds: Sequence[int], *, kept_val: bool) -> dict[str, Any]:
    """What the manifest says of all this; the same for identical runs.

    Args:
        trials: of the search, in order; none where nothing was searched.
        seeds: of the final runs.
        kept_val: whether there were validation images, which final runs learn from too.
    """
    told: dict[str, Any] = {
        "trained_on": "train+val" if kept_val else "train",
        "kept": "last epoch",
        "seeds": list(seeds),
        "test": "answered once by each final artifact",
    }
    if trials:
        told |= {
            "chosen_on": "val",
            "search_seed": trials[0].point.recipe.seed,
            "points": [{**trial.point.settings, _SCORE: trial.val_accuracy} for trial in trials],
            "chosen": choose(trials),
        }
    return told


def seeds_from(first: int, count: int) -> tuple[int, ...]:
    """The seeds of the final runs; the first is the recipe's own."""
    return tuple(range(first, first + count))


def spread(values: Sequence[float]) -> tuple[float, float] | None:
    """Mean and standard deviation (of the sample) over seeds; None of nothing, 0 of one."""
    if not values:
        return None
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def settings_text(settings: Mapping[str, Any]) -> str:
    """`lr=0.01 rank=8`."""
    return " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings.items()
    )


def _values(text: str) -> tuple[Any, ...]:
    try:
        return tuple(json.loads(f"[{text}]"))
    except ValueError:
        return tuple(part.strip() for part in text.split(","))
