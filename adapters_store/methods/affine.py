"""Affine terms behind a frozen module: what SSF and BitFit train. Knows no paper by itself."""

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

from adapters_store.methods.protocol import Frozen, Site
from adapters_store.spec import BackboneSpec, Target

CONVOLUTION: Final = "patch"  # the role of the one place whose output has its channels first


class AffineSite(Site):
    """Behind one linear layer, LayerNorm or convolution: γ ⊙ y + β, of which one may lack."""

    def __init__(
        self, target: Target, terms: Mapping[str, Tensor], gamma: str = "gamma", beta: str = "beta"
    ) -> None:
        """Train these `terms` [channels], the scale and the shift being named so."""
        super().__init__()
        self.roles = (gamma, beta)
        self.channels_first = target.role == CONVOLUTION
        for name, values in terms.items():
            self.register_parameter(name, nn.Parameter(values))

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """γ ⊙ frozen(x) + β; channels come last, and first in what a convolution gives."""
        y = frozen(x)
        # In y's dtype: a term in fp32 would make all that follows fp32 too, where y is bf16.
        own = {name: values.to(y.dtype) for name, values in self._own()}
        if self.channels_first:
            own = {name: values[:, None, None] for name, values in own.items()}
        gamma, beta = (own.get(role) for role in self.roles)
        y = y if gamma is None else y * gamma
        return y if beta is None else y + beta


def places(spec: BackboneSpec) -> tuple[Target, ...]:
    """Everything behind which affine terms may sit: linear layers, norms, the patch embedding."""
    return (*spec.targets, *spec.affines)
