"""A linear head on frozen features: the method that changes no target, the usual baseline."""

from collections.abc import Mapping

from torch import Tensor

from adapters_store.families import FAMILIES
from adapters_store.methods.protocol import AdapterModule, Layout, Method, MethodOptions
from adapters_store.normal_form import NormalForm
from adapters_store.spec import BackboneSpec


class LinearOptions(MethodOptions):
    """Nothing to choose."""


class Linear(Method[LinearOptions]):
    """The row of the METHODS table."""

    name = "linear"
    paper = "linear probing"
    options = LinearOptions
    families = frozenset(FAMILIES)

    def layout(self, options: LinearOptions, spec: BackboneSpec) -> Layout:
        """No tensor but the head, which every adapter has."""
        return {}

    def count(self, options: LinearOptions, spec: BackboneSpec) -> int:
        """Nothing is counted: heads are excluded."""
        return 0

    def module(self, options: LinearOptions, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """A module without sites."""
        return AdapterModule({})

    def lower(
        self, options: LinearOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """No target changes."""
        return {}
