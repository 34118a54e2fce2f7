"""SSF: scaling and shifting features (arXiv 2210.08823). Knows no training, no serving.

Behind every operation of the network, channel by channel:  y' = γ ⊙ y + β

merged as W' = diag(γ) W, b' = γ ⊙ b + β, and behind a LayerNorm likewise into its own scale and
shift. Operations are the patch embedding, norm1, qkv, proj, norm2, fc1 and fc2 of every block, and
the final norm: 205 824 numbers on ViT-B/16.

Certain (released code): all of it, γ ~ N(1, 0.02) and β ~ N(0, 0.02), which is near the identity
and not the identity. Ours: the final norm is `norm` or, in networks that pool first, `fc_norm`,
whichever the network has; an operation without bias has a γ and no β, so that merging stays strict.
Norms that the paper's network lacks (in front of the blocks, of q and k) stay as they are.
γ scales a whole weight: what it does is of full rank, and is kept in float32.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from adapters_store.methods.affine import AffineSite, places
from adapters_store.methods.protocol import (
    AdapterModule,
    Layout,
    Method,
    MethodOptions,
    factors_at,
)
from adapters_store.normal_form import LinearForm, NormalForm
from adapters_store.spec import BackboneSpec, Target

MEAN = {"gamma": 1.0, "beta": 0.0}  # of what a fresh term is drawn around
SPREAD = 0.02


class SsfOptions(MethodOptions):
    """Nothing to choose."""


def terms(target: Target) -> tuple[str, ...]:
    """Which terms sit behind this operation."""
    return ("gamma", "beta") if target.bias else ("gamma",)


class Ssf(Method[SsfOptions]):
    """The row of the METHODS table."""

    name = "ssf"
    paper = "SSF, arXiv 2210.08823"
    options = SsfOptions
    exact = frozenset(MEAN)

    def layout(self, options: SsfOptions, spec: BackboneSpec) -> Layout:
        """A scale and, where there is a bias, a shift behind every operation."""
        return {f"{t.path}.{name}": (t.outputs,) for t in places(spec) for name in terms(t)}

    def count(self, options: SsfOptions, spec: BackboneSpec) -> int:
        """Two numbers a channel: 2·(12·11d + 2d) on a ViT of depth 12 whose MLP is 4d wide."""
        return sum((2 if t.bias else 1) * t.outputs for t in places(spec))

    def module(self, options: SsfOptions, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Near the identity at the start, not the identity; there is no place for dropout."""
        return AdapterModule(
            {
                t.path: AffineSite(
                    t, {n: torch.empty(t.outputs).normal_(MEAN[n], SPREAD) for n in terms(t)}
                )
                for t in places(spec)
            }
        )

    def lower(
        self, options: SsfOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """Affine terms alone."""
        return {t.path: LinearForm(**factors_at(t.path, tensors)) for t in places(spec)}  # type: ignore[arg-type]
