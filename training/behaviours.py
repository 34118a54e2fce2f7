"""What methods ask of training beyond a loss on their answers. Knows no image and no artifact.

Nothing of this reaches a server: what it leaves behind is in the factors.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from torch import Tensor

from adapters_store.methods.protocol import AdapterModule
from training.recipe import Recipe

Losses = Callable[[], Iterator[Tensor]]  # the loss of each training batch in turn, nothing updated


class Behaviour:
    """Asks nothing."""

    def penalty(self) -> Tensor | None:
        """What is added to the loss of every step."""
        return None

    def before_epoch(self, number: int, losses: Losses) -> None:
        """Called before each epoch, counted from 1, with the module in training."""


Make = Callable[[AdapterModule, Recipe], Behaviour]
BEHAVIOURS: Final[Mapping[str, Make]] = MappingProxyType({})  # by method; the others ask nothing


def behaviour_of(method: str, module: AdapterModule, recipe: Recipe) -> Behaviour:
    """What this method asks, about this module."""
    make = BEHAVIOURS.get(method)
    return Behaviour() if make is None else make(module, recipe)
