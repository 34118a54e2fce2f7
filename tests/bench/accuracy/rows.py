"""The rows of the accuracy table and the points that each may try. Knows no image and no run.

At most six points a row, the most promising first. Where a method has a scale, the scale decides
how fast the adapter learns beside the head, and the rate how fast both do.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

from adapters_store.manifest import canonical
from training.full import FULL
from training.protocol import Point
from training.recipe import FULL as REFERENCE
from training.recipe import Recipe, compose

Settings = Mapping[str, Any]

SEEDS: Final = 3
POINTS_MOST: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all units of one table have in common; another plan is another table."""

    backbone: str
    weights: str  # digest of the frozen weights
    epochs: int
    batch: int
    points: int  # of each row, at most
    precision: str  # of networks in training

    def told(self) -> dict[str, Any]:
        """As JSON, with a sha256 over the points of all rows: results of others do not mix in."""
        tried = {
            method: [
                [dict(p.settings), dict(p.options), p.recipe.model_dump(mode="json")]
                for p in points(method, self)
            ]
            for method in ROWS
        }
        return {**asdict(self), "rows": hashlib.sha256(canonical(tried).encode()).hexdigest()}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Plan":
        """The plan that a file tells; ends the program where it has other rows than these."""
        plan = cls(**{key: value for key, value in told.items() if key != "rows"})
        if plan.told() != told:
            raise SystemExit(f"the results are of other points than those of {__name__}")
        return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    title: str
    points: tuple[Settings, ...]


def _scaled(key: str, *scales: float) -> tuple[Settings, ...]:
    """Two rates; the larger first, for short runs."""
    return tuple({key: scale, "lr": lr} for lr in (7e-3, 2e-3) for scale in scales)


def _rates(*rates: float) -> tuple[Settings, ...]:
    return tuple({"lr": lr} for lr in rates)


ROWS: Final[Mapping[str, Row]] = MappingProxyType(
    {
        "linear": Row(title="Linear", points=_rates(3e-2, 1e-2, 1e-1, 3e-3, 1e-3, 3e-4)),
        FULL: Row(title="Full fine-tuning", points=_rates(2e-4, 5e-4, 1e-4, 5e-5, 1e-3, 2e-5)),
        "lora": Row(title="LoRA", points=_scaled("scale", 1, 4, 0.3)),
        "repadapter": Row(title="RepAdapter", points=_scaled("scale", 1, 4, 0.3)),
        "fact_tk": Row(title="FacT-TK", points=_scaled("scale", 10, 1, 100)),
        "ssf": Row(title="SSF", points=_rates(5e-3, 1e-2, 2e-2, 2e-3, 5e-2, 1e-3)),
        "bi_lora": Row(title="Bi-LoRA", points=_scaled("scale", 1, 4, 0.3)),
        "alore": Row(title="ALoRE", points=_scaled("scale", 1, 4, 0.3)),
        "karst": Row(title="KARST", points=_scaled("multiplier", 2, 4, 1)),
        "clora": Row(title="CLoRA", points=_scaled("scale", 1, 4, 0.3)),
        "heart_lora": Row(title="Heart-LoRA", points=_scaled("scale", 1, 4, 0.3)),
    }
)


def points(method: str, plan: Plan) -> tuple[Point, ...]:
    """What the row tries, with its published recipe but for the plan's epochs and batch."""
    given = {"epochs": plan.epochs, "batch": plan.batch, "precision": plan.precision}
    found = []
    for settings in ROWS[method].points[: plan.points]:
        if method == FULL:
            recipe = Recipe.model_validate({**REFERENCE.model_dump(), **given, **settings})
            found.append(Point(settings=settings, options={}, recipe=recipe))
            continue
        options, recipe = compose(method, {**given, **settings})
        found.append(Point(settings=settings, options=options.model_dump(), recipe=recipe))
    return tuple(found)
