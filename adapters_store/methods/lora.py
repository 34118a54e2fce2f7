"""LoRA on attention, in the definitions that are published for ViT. Knows no training, no serving.

Beside the target, on rows of tokens x:  y = x Wᵀ + b + s · x Aᵀ Bᵀ, merged as W' = W + sBA.

    variant qv    A and B for q and for v apart     Bi-LoRA's base code (Jie et al., ICCV 2023)
    variant qk    the same for q and k              Adapters Strike Back (Steitz and Roth, 2024)
    variant qkv   one A and one B for q, k and v    NOAH (Zhang et al., 2022)
    variant each  one A and one B at each target    Hugging Face PEFT's shape, any roles and ranks

LoRA itself: Hu et al., arXiv 2106.09685, equation 3. With r = 8 the first three hold 294 912
numbers on ViT-B/16. A is drawn as `nn.Linear` draws its weight (Kaiming-uniform, a = √5), B is
zero.
Dropout acts on the r-dimensional code in variant qv, on x before A in the others, as published.
"""

import math
from collections.abc import Mapping
from typing import Final, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from adapters_store.methods.dropout import dropped
from adapters_store.methods.lowrank import beside, stacked
from adapters_store.methods.protocol import (
    AdapterModule,
    Frozen,
    Layout,
    Method,
    MethodOptions,
    Site,
    factors_at,
)
from adapters_store.normal_form import LinearForm, LowRank, NormalForm
from adapters_store.spec import BackboneSpec, Target

PARTS: Final = {"qv": "qv", "qk": "qk"}  # projections with an A and a B of their own
_ORDER: Final = "qkv"  # rows of timm's fused projection

Role = Literal["qkv", "proj", "fc1", "fc2"]


class LoraOptions(MethodOptions):
    """Rank eight on q and v."""

    variant: Literal["qv", "qk", "qkv", "each"] = "qv"
    rank: int = Field(default=8, ge=1, le=1024)
    scale: float = Field(default=1.0, ge=1e-6, le=1e6)  # s; folded into B at export
    roles: tuple[Role, ...] = Field(default=("qkv",), min_length=1)  # of variant each
    ranks: Mapping[str, int] = Field(
        default={}
    )  # of variant each: by target path, instead of roles and rank

    @model_validator(mode="after")
    def _roles_are_of_variant_each(self) -> Self:
        if self.variant != "each" and (self.roles != ("qkv",) or self.ranks):
            raise ValueError("roles and ranks are for variant each")
        if not all(1 <= rank <= 1024 for rank in self.ranks.values()):
            raise ValueError("ranks must lie between 1 and 1024")
        return self


class LoraSite(Site):
    """One or two pairs of factors at a target: A* [r,in], B* [out,r]."""

    scaled = frozenset({"B", "B_q", "B_k", "B_v"})

    def __init__(self, target: Target, options: LoraOptions, dropout: float) -> None:
        super().__init__(options.scale)
        self.dropout, self.on_code = dropout, options.variant == "qv"
        self.parts = PARTS.get(options.variant, "")
        for name, shape in shapes(target, options).items():
            factor = nn.Parameter(torch.zeros(shape))
            if name.startswith("A"):
                nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
            self.register_parameter(name, factor)

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """frozen(x) with s·xAᵀBᵀ added to the adapted projections."""
        y, rate = frozen(x), self.dropout if self.training else 0.0
        if not self.parts:
            a, b = self.get_parameter("A"), self.scale * self.get_parameter("B")
            return beside(y, dropped(x, rate, training=True), a, b)
        width = y.shape[-1]
        downs = {p: self.get_parameter(f"A_{p}") for p in self.parts}
        ups = {p: self.scale * self.get_parameter(f"B_{p}") for p in self.parts}
        starts = {p: _ORDER.index(p) * (width // 3) for p in self.parts}
        if self.on_code:
            up = stacked({starts[p]: ups[p] for p in self.parts}, width)
            return beside(y, x, torch.cat(list(downs.values())), up, rate)
        for p in self.parts:  # each draws its own
            inputs = dropped(x, rate, training=True)
            y = beside(y, inputs, downs[p], stacked({starts[p]: ups[p]}, width))
        return y


def shapes(target: Target, options: LoraOptions) -> dict[str, tuple[int, int]]:
    """Factor names and shapes at one target."""
    r = options.ranks.get(target.path, options.rank)
    parts = PARTS.get(options.variant)
    if parts is None:
        return {"A": (r, target.inputs), "B": (target.outputs, r)}
    third = target.outputs // 3
    return {f"{f}_{p}": (r, target.inputs) if f == "A" else (third, r) for p in parts for f in "AB"}


def part_rows(part: str, target: Target) -> slice:
    """The rows of q, k or v in timm's fused projection."""
    third = target.outputs // 3
    at = _ORDER.index(part) * third
    return slice(at, at + third)


class Lora(Method[LoraOptions]):
    """The row of the METHODS table."""

    name = "lora"
    paper = "LoRA, arXiv 2106.09685; on ViT as NOAH, Bi-LoRA and adapter+ define it"
    options = LoraOptions

    def targets(self, options: LoraOptions, spec: BackboneSpec) -> tuple[Target, ...]:
        """Where factors are: attention's projection, or what variant each names.

        Raises:
            ValueError: a path in `ranks` is no target of the backbone.
        """
        if not options.ranks:
            return spec.of_role(*options.roles)
        known = {t.path for t in spec.targets}
        if unknown := sorted(set(options.ranks) - known):
            raise ValueError(f"{spec.ref.name} has no target {', '.join(unknown[:5])}")
        return tuple(t for t in spec.targets if t.path in options.ranks)

    def layout(self, options: LoraOptions, spec: BackboneSpec) -> Layout:
        """A and B for every adapted projection of every target."""
        return {
            f"{t.path}.{factor}": shape
            for t in self.targets(options, spec)
            for factor, shape in shapes(t, options).items()
        }

    def count(self, options: LoraOptions, spec: BackboneSpec) -> int:
        """4dr a block on qkv, whichever variant: two A and two B, or one A and three rows of B."""
        return sum(
            options.ranks.get(t.path, options.rank) * (t.inputs + t.outputs)
            if options.variant not in PARTS
            else 2 * options.rank * (t.inputs + t.outputs // 3)
            for t in self.targets(options, spec)
        )

    def module(self, options: LoraOptions, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Identity at the start: B is zero."""
        return AdapterModule(
            {t.path: LoraSite(t, options, dropout) for t in self.targets(options, spec)}
        )

    def lower(
        self, options: LoraOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """Q = one low-rank operator a projection, at that projection's rows."""
        form: dict[str, LinearForm] = {}
        for t in self.targets(options, spec):
            f = factors_at(t.path, tensors)
            form[t.path] = LinearForm(
                Q=tuple(
                    LowRank(down=f[f"A_{p}"], up=f[f"B_{p}"], rows=part_rows(p, t))
                    for p in PARTS.get(options.variant, "")
                )
                or (LowRank(down=f["A"], up=f["B"]),)
            )
        return form
