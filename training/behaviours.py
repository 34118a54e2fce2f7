"""What methods ask of training beyond a loss on their answers. Knows no image and no artifact.

Nothing of this reaches a server: what it leaves behind is in the factors.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from torch import Tensor

from adapters_store.methods.protocol import AdapterModule
from training import heads
from training.recipe import Recipe, check
from training.sade import sade

Losses = Callable[[], Iterator[Tensor]]  # the loss of each training batch in turn, nothing updated


class Behaviour:
    """Asks nothing."""

    def penalty(self) -> Tensor | None:
        """What is added to the loss of every step."""
        return None

    def after_epoch(self, number: int, losses: Losses) -> None:
        """Called after each epoch, counted from 1, with dropout and stochastic depth off."""


class Decorrelated(Behaviour):
    """CLoRA's base spaces are kept from answering alike, where the recipe gives that a weight."""

    def __init__(self, module: AdapterModule, recipe: Recipe) -> None:
        self.module, self.weight = module, recipe.sade

    def penalty(self) -> Tensor | None:
        """α times SADE."""
        return self.weight * sade(self.module) if self.weight else None


class Responsive(Behaviour):
    """Heart-LoRA trains all heads for a while, and then those that respond."""

    def __init__(self, module: AdapterModule, recipe: Recipe) -> None:
        self.module = module
        self.warmup = min(recipe.head_warmup_epochs, recipe.epochs)
        heads.open_all(module)

    def after_epoch(self, number: int, losses: Losses) -> None:
        """Choose, once."""
        if number == self.warmup:
            heads.choose(self.module, losses)


Make = Callable[[AdapterModule, Recipe], Behaviour]
# By method; the others ask nothing.
BEHAVIOURS: Final[Mapping[str, Make]] = MappingProxyType(
    {"clora": Decorrelated, "heart_lora": Responsive}
)


def behaviour_of(method: str, module: AdapterModule, recipe: Recipe) -> Behaviour:
    """What this method asks, about this module.

    Raises:
        RecipeInvalidError: the recipe asks for what another method does.
    """
    check(method, recipe)
    make = BEHAVIOURS.get(method)
    return Behaviour() if make is None else make(module, recipe)
