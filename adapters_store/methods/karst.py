"""KARST: multi-kernel Kronecker adaptation (arXiv 2502.06779). Knows no training, no serving.

Beside a target, on columns x, with N kernels of one shape:

    Δ = Σ_i C_i ⊗ (A_i B_i)         C_i [f,f], A_i [out/f,r], B_i [r,in/f];   Q = sΔ
    qkv    three A_i, for q, k and v, over one B_i and one C_i
    proj   y = a2 ⊙ ((W + sΔ)(a1 ⊙ x + b1) + b) + b2
    fc1    y = (W + sΔ) x + b
    fc2    y = a3 ⊙ ((W + sΔ) x + b) + b3

Certain: Δ and B = 0 at the start (paper); f = 8, r = 8, where the a and b are, that they are
scalars and start at 1 and 0, A and C Kaiming-uniform with a = √5 (released code; the paper says
Gaussian, and channel-wise vectors: rescale "channel"). Inferred: N = 2, the default of the code's
module, with which the parameters are LoRA's, 0.30 M on ViT-B/16; the paper's table does not say.
The code multiplies by its `multiplier` twice, inside Δ and outside, so s = multiplier²/r; that is
kept, because published multipliers mean it. It is folded into C at export.

On Swin the code's ranks grow with the width: 2, 2, 4, 8 stage by stage. It knows no other
hierarchy; ConvNeXt, where only fc1 and fc2 are linear, has rank 8 in every stage unless `ranks`
says otherwise. In a Mixer the channel MLP is adapted and the token MLP is not: the number of
tokens need not be divisible by f. A target without bias has no b before or behind it.

A scalar b2 or b3 shifts all channels of the residual stream alike, and where only LayerNorms read
that stream (ViT, Swin, Mixer) they take the shift off again: it is kept because it is counted, and
does nothing. ConvNeXt's layer-scale and convolutions make b3 felt.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from adapters_store.families import FAMILIES
from adapters_store.methods.mixing import structured
from adapters_store.methods.protocol import (
    AdapterModule,
    Frozen,
    Layout,
    Method,
    MethodOptions,
    Site,
    bounded,
    factors_at,
)
from adapters_store.normal_form import Kronecker, LinearForm, NormalForm
from adapters_store.spec import BackboneSpec, Target

UPS: Final = {"qkv": ("A_q", "A_k", "A_v")}  # the others have one A
BEFORE: Final = {"proj": ("a1", "b1")}  # what re-scales a target's input: a scale and a shift
AFTER: Final = {"proj": ("a2", "b2"), "fc2": ("a3", "b3")}  # its output
SCALES: Final = frozenset({"a1", "a2", "a3"})
SHIFTS: Final = frozenset({"b1", "b2", "b3"})
SWIN_RANKS: Final = (2, 2, 4, 8)
RANK: Final = 8

Rank = Annotated[int, Field(ge=1, le=256)]


class KarstOptions(MethodOptions):
    """Two kernels of factor eight and rank eight, re-scaled by scalars."""

    kernels: int = Field(default=2, ge=1, le=64)  # N
    factor: int = Field(default=8, ge=1, le=64)  # f
    rank: Rank | None = None  # r everywhere; None: 8, or 2/2/4/8 on a Swin of four stages
    ranks: tuple[Rank, ...] | None = None  # r stage by stage, instead of `rank`
    multiplier: float = Field(
        default=1.0, ge=1e-3, le=1e3
    )  # s = multiplier²/r, as the code applies it
    rescale: Literal["scalar", "channel"] = "scalar"

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if self.rank is not None and self.ranks is not None:
            raise ValueError("rank and ranks exclude each other")
        return self

    @model_validator(mode="after")
    def _together_modest(self) -> Self:
        rank = max(self.ranks or (self.rank or RANK,))
        bounded(self.kernels * self.factor * rank, 4096, "kernels x factor x rank")
        return self


class KarstSite(Site):
    """One target: C [N,f,f], B [N,r,in/f], one or three A [N,out/f,r], scales and shifts."""

    scaled = frozenset({"C"})

    def __init__(self, target: Target, options: KarstOptions, rank: int, dropout: float) -> None:
        super().__init__(options.multiplier**2 / rank)
        self.dropout = dropout
        self.ups = UPS.get(target.role, ("A",))
        self.before, self.after = BEFORE.get(target.role), AFTER.get(target.role)
        for name, shape in shapes(target, options, rank).items():
            factor = torch.ones(shape) if name in SCALES else torch.zeros(shape)
            if name == "C" or name in self.ups:
                for kernel in factor:  # the code keeps A the other way round: [r,out/f]
                    nn.init.kaiming_uniform_(kernel.mT, a=math.sqrt(5))
            self.register_parameter(name, nn.Parameter(factor))

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """The structured product (methods.md §6.5): no Kronecker product is ever built."""
        x = self._rescaled(x, self.before)
        y = frozen(x) + self._delta(x)
        return self._rescaled(y, self.after)

    def _delta(self, x: Tensor) -> Tensor:
        mix, down = self.get_parameter("C"), self.get_parameter("B").flatten(0, 1)
        ups = torch.stack([self.get_parameter(n).permute(1, 0, 2).flatten(1) for n in self.ups])
        return structured(x, down, mix, self.scale * ups, self.dropout if self.training else 0.0)

    def _rescaled(self, x: Tensor, names: tuple[str, str] | None) -> Tensor:
        if names is None:
            return x
        # In x's dtype: a number in fp32 would make all that follows fp32 too, where x is bf16.
        own = {name: values.to(x.dtype) for name, values in self._own() if name in names}
        x = x * own[names[0]]
        return x + own[names[1]] if names[1] in own else x


def shapes(target: Target, options: KarstOptions, rank: int) -> dict[str, tuple[int, ...]]:
    """Factor names and shapes at one target.

    Raises:
        ValueError: the factor does not divide a width of the target.
    """
    n, f = options.kernels, options.factor
    ups = UPS.get(target.role, ("A",))
    outputs = target.outputs // len(ups)
    for width, kind in ((target.inputs, "inputs"), (outputs, "outputs")):
        if width % f:
            raise ValueError(f"factor {f} does not divide the {width} {kind} of {target.path}")
    found: dict[str, tuple[int, ...]] = {"C": (n, f, f), "B": (n, rank, target.inputs // f)}
    found |= dict.fromkeys(ups, (n, outputs // f, rank))
    for names, width in ((BEFORE, target.inputs), (AFTER, outputs)):
        pair = names.get(target.role, ())
        for name in pair if target.bias else pair[:1]:
            found[name] = (1 if options.rescale == "scalar" else width,)
    return found


class Karst(Method[KarstOptions]):
    """The row of the METHODS table."""

    name = "karst"
    paper = "KARST, arXiv 2502.06779"
    options = KarstOptions
    families = frozenset(FAMILIES)
    exact = SCALES | SHIFTS

    def targets(self, options: KarstOptions, spec: BackboneSpec) -> tuple[tuple[Target, int], ...]:
        """Every target but a Mixer's token MLP, with the rank that it has.

        Raises:
            ValueError: `ranks` names more or fewer stages than the backbone has.
        """
        adapted = spec.of_role("qkv", "proj", "fc1", "fc2")
        stages = 1 + max(t.stage for t in adapted)
        ranks = options.ranks
        if ranks is None and options.rank is None and spec.family == "swin":
            ranks = SWIN_RANKS if stages == len(SWIN_RANKS) else None
        if ranks is None:
            ranks = (options.rank or RANK,) * stages
        if len(ranks) != stages:
            raise ValueError(f"{len(ranks)} ranks for the {stages} stages of {spec.ref.name}")
        return tuple((t, ranks[t.stage]) for t in adapted)

    def layout(self, options: KarstOptions, spec: BackboneSpec) -> Layout:
        """Three to five factors a target, and its scales and shifts.

        Raises:
            ValueError: as `targets` and `shapes`.
        """
        return {
            f"{t.path}.{name}": shape
            for t, rank in self.targets(options, spec)
            for name, shape in shapes(t, options, rank).items()
        }

    def count(self, options: KarstOptions, spec: BackboneSpec) -> int:
        """N(f² + r(in + out)/f) a target, and a scale and a shift at three places of a block.

        On a ViT of width d and depth L with f = 8 that is L·N(256 + 2rd) + 6L (or 6dL).
        """
        n, f = options.kernels, options.factor
        numbers = 0
        for t, rank in self.targets(options, spec):
            places = ((BEFORE, t.inputs), (AFTER, t.outputs))
            rescaled = sum(
                1 if options.rescale == "scalar" else width for p, width in places if t.role in p
            )
            numbers += n * (f * f + rank * (t.inputs + t.outputs) // f)
            numbers += (2 if t.bias else 1) * rescaled
        return numbers

    def module(self, options: KarstOptions, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Identity at the start: B is zero, every scale one and every shift zero."""
        return AdapterModule(
            {t.path: KarstSite(t, options, r, dropout) for t, r in self.targets(options, spec)}
        )

    def lower(
        self, options: KarstOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """Q = one Kronecker operator, three at the rows of q, k and v over one mix and one down.

        The scales and shifts stay apart from Q: a scaled W0 is no low-rank change of it.
        """
        form: dict[str, LinearForm] = {}
        for t, _ in self.targets(options, spec):
            f = factors_at(t.path, tensors)
            ups = UPS.get(t.role, ("A",))
            part = t.outputs // len(ups)
            alpha, c = BEFORE.get(t.role, ("", ""))
            gamma, beta = AFTER.get(t.role, ("", ""))
            form[t.path] = LinearForm(
                Q=tuple(
                    Kronecker(
                        mix=f["C"],
                        down=f["B"],
                        up=f[name],
                        rows=slice(i * part, (i + 1) * part) if len(ups) > 1 else None,
                    )
                    for i, name in enumerate(ups)
                ),
                alpha=f.get(alpha),
                c=f.get(c),
                gamma=f.get(gamma),
                beta=f.get(beta),
            )
        return form
