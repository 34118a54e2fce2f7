"""BitFit: the biases alone (arXiv 2106.10199). Knows no training, no serving.

Behind every module that has a bias:  y' = y + Δb, merged as b' = b + Δb

On ViT: the patch embedding, both LayerNorms and the four linear layers of every block, and the
final norm, 102 912 numbers on ViT-B/16 (as VPT and NOAH count it in their tables).

Certain: which parameters, and that the trained bias replaces the frozen one. Ours: what is trained
and stored is the difference to the frozen bias, so that it can be added in a mixed batch, and
weight decay pulls towards the frozen bias and not towards zero.
A module without bias is left out. The third of qkv's bias that shifts the keys moves all scores of
a query alike and softmax takes it off: it is counted, and does nothing.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from adapters_store.methods.affine import AffineSite, places
from adapters_store.methods.protocol import AdapterModule, Layout, Method, MethodOptions
from adapters_store.normal_form import LinearForm, NormalForm
from adapters_store.spec import BackboneSpec, Target


class BitFitOptions(MethodOptions):
    """Nothing to choose."""


class BitFit(Method[BitFitOptions]):
    """The row of the METHODS table."""

    name = "bitfit"
    paper = "BitFit, arXiv 2106.10199"
    options = BitFitOptions
    exact = frozenset({"delta"})

    def targets(self, spec: BackboneSpec) -> tuple[Target, ...]:
        """Every module with a bias."""
        return tuple(t for t in places(spec) if t.bias)

    def layout(self, options: BitFitOptions, spec: BackboneSpec) -> Layout:
        """One vector a module."""
        return {f"{t.path}.delta": (t.outputs,) for t in self.targets(spec)}

    def count(self, options: BitFitOptions, spec: BackboneSpec) -> int:
        """As many as there are biases: 12·11d + 2d on a ViT of depth 12 whose MLP is 4d wide."""
        return sum(t.outputs for t in self.targets(spec))

    def module(self, options: BitFitOptions, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Identity at the start: Δb is zero; there is no place for dropout."""
        return AdapterModule(
            {
                t.path: AffineSite(t, {"delta": torch.zeros(t.outputs)}, beta="delta")
                for t in self.targets(spec)
            }
        )

    def lower(
        self, options: BitFitOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """A shift of the output alone."""
        return {t.path: LinearForm(beta=tensors[f"{t.path}.delta"]) for t in self.targets(spec)}
