"""ARC: adapter re-composing (NeurIPS 2023, arXiv 2310.06234). Knows no training, no serving.

Before attention and, unless that alone is asked for, before the MLP, on columns x of layer l:

    x̂ = x + D diag(c_l) Dᵀ x + e_l        D [d,r] shared by layers, c_l [r] and e_l [d] their own

merged as W' = W (I + D diag(c_l) Dᵀ), b' = b + W e_l. One D is shared before attention (D_att) and
one before the MLP (D_mlp); the change is symmetric and of rank r at most.

Certain (released code): all of it, r = 50, D Xavier-uniform, c zero before attention and drawn
Xavier-uniform as a row before the MLP, e zero, dropout on the code: the adapter of attention starts
as the identity, that of the MLP does not. 96 432 numbers on ViT-B/16, before attention alone
48 216. Ours: a target without bias has no e, for nothing could hold W e.
"""

from collections.abc import Mapping
from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from adapters_store.methods.dropout import dropped
from adapters_store.methods.protocol import (
    SHARED,
    AdapterModule,
    Factors,
    Frozen,
    Layout,
    Method,
    MethodOptions,
    Site,
    factors_at,
)
from adapters_store.normal_form import LinearForm, LowRank, NormalForm
from adapters_store.spec import BackboneSpec, Target

PROJECTIONS: Final = {"qkv": "D_att", "fc1": "D_mlp"}  # by the role of the target behind


class ArcOptions(MethodOptions):
    """Fifty directions, shared by the layers, before attention and before the MLP."""

    rank: int = Field(default=50, ge=1, le=512)  # r
    placement: Literal["attention", "both"] = "both"


class Projections(Factors):
    """What the layers share: D_att [d,r] and, with both placements, D_mlp [d,r]."""

    def __init__(self, widths: Mapping[str, int], options: ArcOptions) -> None:
        super().__init__()
        for name, width in widths.items():
            factor = nn.Parameter(torch.empty(width, options.rank))
            nn.init.xavier_uniform_(factor)
            self.register_parameter(name, factor)


class ArcSite(Site):
    """One target: c [r] and, where the target has a bias, e [d], over a projection it shares."""

    def __init__(
        self, target: Target, shared: Projections, options: ArcOptions, dropout: float
    ) -> None:
        super().__init__()
        self.dropout, self.shared, self.projection = dropout, shared, PROJECTIONS[target.role]
        for name, shape in own_shapes(target, options).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        if target.role == "fc1":
            nn.init.xavier_uniform_(self.get_parameter("c")[None])

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """frozen(x + x (D diag c) Dᵀ + e)."""
        own = dict(self._own())
        D = self.shared.get_parameter(self.projection)
        code = dropped(x @ (D * own["c"]), self.dropout, training=self.training)
        x = x + F.linear(code, D)
        return frozen(x + own["e"].to(x.dtype) if "e" in own else x)


def own_shapes(target: Target, options: ArcOptions) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the factors that are one target's alone."""
    own: dict[str, tuple[int, ...]] = {"c": (options.rank,)}
    return {**own, "e": (target.inputs,)} if target.bias else own


class Arc(Method[ArcOptions]):
    """The row of the METHODS table."""

    name = "arc"
    paper = "ARC, arXiv 2310.06234"
    options = ArcOptions
    exact = frozenset({"e"})

    def targets(self, options: ArcOptions, spec: BackboneSpec) -> tuple[Target, ...]:
        """In front of attention and, unless that alone is asked for, of the MLP."""
        return spec.in_front(options.placement)

    def widths(self, options: ArcOptions, spec: BackboneSpec) -> dict[str, int]:
        """Rows of each shared projection, by name."""
        return {PROJECTIONS[t.role]: t.inputs for t in self.targets(options, spec)}

    def layout(self, options: ArcOptions, spec: BackboneSpec) -> Layout:
        """One or two shared projections, and one or two vectors a target."""
        shared = {
            f"{SHARED}.{name}": (width, options.rank)
            for name, width in self.widths(options, spec).items()
        }
        own = {
            f"{t.path}.{name}": shape
            for t in self.targets(options, spec)
            for name, shape in own_shapes(t, options).items()
        }
        return {**shared, **own}

    def count(self, options: ArcOptions, spec: BackboneSpec) -> int:
        """A projection of dr for each place, and r + d (r without bias) for each target."""
        shared = sum(width * options.rank for width in self.widths(options, spec).values())
        return shared + sum(
            options.rank + (t.inputs if t.bias else 0) for t in self.targets(options, spec)
        )

    def module(self, options: ArcOptions, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Before attention the identity at the start; before the MLP not, as published."""
        shared = Projections(self.widths(options, spec), options)
        sites = {t.path: ArcSite(t, shared, options, dropout) for t in self.targets(options, spec)}
        return AdapterModule(sites, shared=shared)

    def lower(
        self, options: ArcOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """P = one low-rank operator of rank r whose core is diag(c).

        D and its transpose are one object each for all targets of a place, so that they lie in a
        server's row once. Folding c into D would save the core's product, 3 % of the arithmetic
        and 4 to 8 % of the time on one CPU core, and make the row four times as long (ViT-B/16).
        """
        shared = factors_at(SHARED, tensors)
        downs = {name: D.mT for name, D in shared.items()}
        form: dict[str, LinearForm] = {}
        for t in self.targets(options, spec):
            f, name = factors_at(t.path, tensors), PROJECTIONS[t.role]
            op = LowRank(down=downs[name], core=torch.diag(f["c"]), up=shared[name])
            form[t.path] = LinearForm(P=(op,), c=f.get("e"))
        return form
