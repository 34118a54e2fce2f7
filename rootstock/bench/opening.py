"""A backbone to measure on, by what a user says of it. Knows no engine."""

from pathlib import Path

from adapters_store import backbone as backbones
from adapters_store.backbone import Backbone


def opened(name: str, weights: Path | None) -> Backbone:
    """With its weights, or with random ones: speed does not depend on them.

    Raises:
        BackboneUnavailableError
    """
    if name == backbones.NANO or weights is not None:
        return backbones.load(name, weights)
    return backbones.random(name)
