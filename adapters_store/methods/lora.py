"""LoRA on attention, in the definitions that are published for ViT. Knows no training, no serving.

Beside the target, on rows of tokens x:  y = x Wᵀ + b + s · x Aᵀ Bᵀ, merged as W' = W + sBA.

    variant qv    A and B for q and for v apart     Bi-LoRA's base code (Jie et al., ICCV 2023)
    variant qk    the same for q and k              Adapters Strike Back (Steitz and Roth, 2024)
    variant qkv   one A and one B for q, k and v    NOAH (Zhang et al., 2022)

LoRA itself: Hu et al., arXiv 2106.09685, equation 3. With r = 8 all three hold 294 912 numbers on
ViT-B/16. A is drawn as `nn.Linear` draws its weight (Kaiming-uniform, a = √5), B is zero.
Dropout acts on x before A in variant qkv and qk, on the r-dimensional code in qv, as published.
"""

import math
from collections.abc import Mapping
from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from adapters_store.methods.protocol import (
    AdapterModule,
    Layout,
    Linear,
    MethodOptions,
    Site,
    factors_at,
)
from adapters_store.normal_form import LinearForm, LowRank, NormalForm
from adapters_store.spec import BackboneSpec, Target

PARTS: Final = {"qv": "qv", "qk": "qk", "qkv": ""}  # projections with an A and B of their own
_ORDER: Final = "qkv"  # rows of timm's fused projection


class LoraOptions(MethodOptions):
    """Rank eight on q and v."""

    variant: Literal["qv", "qk", "qkv"] = "qv"
    rank: int = Field(default=8, ge=1, le=1024)
    scale: float = Field(default=1.0, gt=0)  # s; folded into B at export


class LoraSite(Site):
    """One or two pairs of factors on a fused qkv projection."""

    def __init__(self, target: Target, options: LoraOptions, dropout: float) -> None:
        super().__init__()
        self.scale, self.dropout = options.scale, dropout
        self.on_code = options.variant == "qv"
        self.parts = PARTS[options.variant]
        for name, shape in shapes(target, options).items():
            factor = nn.Parameter(torch.zeros(shape))
            if name.startswith("A"):
                nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
            self.register_parameter(name, factor)

    def forward(self, x: Tensor, linear: Linear) -> Tensor:
        """linear(x) with s·xAᵀBᵀ added to the adapted projections."""
        y = linear(x)
        if not self.parts:
            return y + self._delta(x, "A", "B")
        zero = y.new_zeros(*y.shape[:-1], y.shape[-1] // 3)
        deltas = {p: self._delta(x, f"A_{p}", f"B_{p}") for p in self.parts}
        return y + torch.cat([deltas.get(p, zero) for p in _ORDER], dim=-1)

    def _delta(self, x: Tensor, a: str, b: str) -> Tensor:
        x = x if self.on_code else F.dropout(x, self.dropout, self.training)
        code = F.linear(x, self.get_parameter(a))
        code = F.dropout(code, self.dropout, self.training) if self.on_code else code
        return self.scale * F.linear(code, self.get_parameter(b))

    def factors(self) -> dict[str, Tensor]:
        """A* [r,d], B* [d,r] (or [3d,r] when shared) times s."""
        return {n: p * self.scale if n[0] == "B" else p for n, p in self.named_parameters()}


def shapes(target: Target, options: LoraOptions) -> dict[str, tuple[int, int]]:
    """Factor names and shapes at one fused projection."""
    a, r = (options.rank, target.inputs), options.rank
    parts = PARTS[options.variant]
    if not parts:
        return {"A": a, "B": (target.outputs, r)}
    third = target.outputs // 3
    return {f"{f}_{p}": a if f == "A" else (third, r) for p in parts for f in "AB"}


class Lora:
    """The row of the METHODS table."""

    name = "lora"
    paper = "LoRA, arXiv 2106.09685; on ViT as NOAH, Bi-LoRA and adapter+ define it"
    options = LoraOptions

    def layout(self, options: LoraOptions, spec: BackboneSpec) -> Layout:
        """A and B for every adapted projection of every attention block."""
        return {
            f"{t.path}.{factor}": shape
            for t in spec.of_role("qkv")
            for factor, shape in shapes(t, options).items()
        }

    def count(self, options: LoraOptions, spec: BackboneSpec) -> int:
        """4dr a block, whichever variant: two A and two B, or one A and three rows of B."""
        return sum(
            options.rank * (t.inputs + t.outputs)
            if options.variant == "qkv"
            else 2 * options.rank * (t.inputs + t.outputs // 3)
            for t in spec.of_role("qkv")
        )

    def module(self, options: LoraOptions, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Identity at the start: B is zero."""
        return AdapterModule({t.path: LoraSite(t, options, dropout) for t in spec.of_role("qkv")})

    def lower(
        self, options: LoraOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """Q = one low-rank operator a projection, at that projection's rows."""
        form: dict[str, LinearForm] = {}
        for t in spec.of_role("qkv"):
            f = factors_at(t.path, tensors)
            third = t.outputs // 3
            form[t.path] = LinearForm(
                Q=tuple(
                    LowRank(
                        down=f[f"A_{p}"],
                        up=f[f"B_{p}"],
                        rows=slice(_ORDER.index(p) * third, (_ORDER.index(p) + 1) * third),
                    )
                    for p in PARTS[options.variant]
                )
                or (LowRank(down=f["A"], up=f["B"]),)
            )
        return form
