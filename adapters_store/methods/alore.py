"""ALoRE: aggregating low rank experts (arXiv 2412.08341). Knows nothing of training or serving.

Before a target, on rows of tokens x:  x̂ = x + s · x Δᵀ, merged as W' = W (I + sΔ).

    variant A   Δ = Σ_i A_i ⊗ (U_i V_i)         n experts, A_i [n,n], U_i [d/n,r], V_i [r,d/n]
    variant B   Δ = W_up W_down                  W_down = Σ_i A_i ⊗ D_i, W_up = Σ_i A'_i ⊗ E_i

Certain (title page and abstract): experts in the parameter space that the Kronecker product
constructs, several branches, purely linear, merged sequentially into the next frozen weight,
0.15 M parameters on ViT-B/16. Inferred from that count: the factor shapes, n = 4, r = 4, no bias,
the initialisation (U = 0, so that x̂ = x at the start; A and V Xavier-uniform).
"""

from collections.abc import Mapping
from typing import Final, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from adapters_store.families import FAMILIES
from adapters_store.methods.lowrank import before
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
from adapters_store.normal_form import Kronecker, LinearForm, LowRank, NormalForm, expand
from adapters_store.spec import BackboneSpec, Target

# Codes of a token up to which two plain products are faster in training than many small ones: a
# step took 0.90 to 1.00 of the time with 64 (docs/log.md), and 1.03 to 1.14 with KARST's 128.
_FEW: Final = 64


class AloreOptions(MethodOptions):
    """Variant A with four experts of rank four, before attention and before the MLP."""

    variant: Literal["A", "B"] = "A"
    experts: int = Field(default=4, ge=1, le=64)  # n
    rank: int = Field(default=4, ge=1, le=256)  # r of one expert (A), or h/n (B)
    placement: Literal["attention", "both"] = "both"
    scale: float = Field(default=1.0, ge=1e-6, le=1e6)  # s; folded into U (A) or E (B) at export

    @model_validator(mode="after")
    def _together_modest(self) -> Self:
        if self.variant == "A":
            bounded(self.experts**2 * self.rank, 4096, "experts² x rank")
        else:
            bounded(self.experts * self.rank, 1024, "experts x rank")
        return self


class ExpertsSite(Site):
    """Variant A at one target: A [n,n,n], U [n,d/n,r], V [n,r,d/n]."""

    scaled = frozenset({"U"})

    def __init__(self, width: int, options: AloreOptions, dropout: float) -> None:
        super().__init__(options.scale)
        n, r = options.experts, options.rank
        self.dropout = dropout
        self.A = nn.Parameter(torch.empty(n, n, n))
        self.U = nn.Parameter(torch.zeros(n, width // n, r))
        self.V = nn.Parameter(torch.empty(n, r, width // n))
        for i in range(n):
            nn.init.xavier_uniform_(self.A[i])
            nn.init.xavier_uniform_(self.V[i])

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """frozen(x + s·xΔᵀ); Δ is never built, and beyond a few codes nothing dense is."""
        rate, scaled = self.dropout if self.training else 0.0, self.scale * self.U
        n, _, r = scaled.shape
        if n * n * r <= _FEW:
            plain = expand(Kronecker(mix=self.A, down=self.V, up=scaled))
            return frozen(before(x, plain.down, plain.up, rate))
        ups = scaled.permute(1, 0, 2).flatten(1)[None]
        return frozen(x + structured(x, self.V.flatten(0, 1), self.A, ups, rate))


class PhmSite(Site):
    """Variant B at one target: A, B [n,n,n], D [n,r,d/n], E [n,d/n,r]."""

    scaled = frozenset({"E"})

    def __init__(self, width: int, options: AloreOptions, dropout: float) -> None:
        super().__init__(options.scale)
        n, r = options.experts, options.rank
        self.dropout = dropout
        self.A = nn.Parameter(torch.empty(n, n, n))
        self.D = nn.Parameter(torch.empty(n, r, width // n))
        self.B = nn.Parameter(torch.empty(n, n, n))
        self.E = nn.Parameter(torch.zeros(n, width // n, r))
        for i in range(n):
            for factor in (self.A, self.D, self.B):
                nn.init.xavier_uniform_(factor[i])

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """frozen(x + s·W_up W_down x); both factors are small enough to be built."""
        down, up = kron_sum(self.A, self.D), self.scale * kron_sum(self.B, self.E)
        return frozen(before(x, down, up, self.dropout if self.training else 0.0))


def kron_sum(mix: Tensor, parts: Tensor) -> Tensor:
    """Σ_i mix_i ⊗ parts_i: [n,n,n], [n,a,b] → [n·a, n·b]."""
    n, a, b = parts.shape
    return torch.einsum("ipq,iab->paqb", mix, parts).reshape(n * a, n * b)


class Alore(Method[AloreOptions]):
    """The row of the METHODS table."""

    name = "alore"
    paper = "ALoRE, arXiv 2412.08341"
    options = AloreOptions
    families = frozenset(FAMILIES)

    def targets(self, options: AloreOptions, spec: BackboneSpec) -> tuple[Target, ...]:
        """In front of what mixes tokens and, unless that alone is asked for, of the MLP."""
        return spec.in_front(options.placement)

    def layout(self, options: AloreOptions, spec: BackboneSpec) -> Layout:
        """Three factors a target in variant A, four in B.

        Raises:
            ValueError: the number of experts does not divide a target's width.
        """
        n, r = options.experts, options.rank
        shapes: dict[str, tuple[int, ...]] = {}
        for t in self.targets(options, spec):
            if t.inputs % n:
                raise ValueError(f"{n} experts do not divide the {t.inputs} inputs of {t.path}")
            part = t.inputs // n
            shapes[f"{t.path}.A"] = (n, n, n)
            if options.variant == "A":
                shapes[f"{t.path}.U"] = (n, part, r)
                shapes[f"{t.path}.V"] = (n, r, part)
            else:
                shapes[f"{t.path}.B"] = (n, n, n)
                shapes[f"{t.path}.D"] = (n, r, part)
                shapes[f"{t.path}.E"] = (n, part, r)
        return shapes

    def count(self, options: AloreOptions, spec: BackboneSpec) -> int:
        """A module holds n³ + 2dr numbers in variant A, 2n³ + 2dr in B (r = h/n)."""
        mixes = 1 if options.variant == "A" else 2
        return sum(
            mixes * options.experts**3 + 2 * t.inputs * options.rank
            for t in self.targets(options, spec)
        )

    def module(self, options: AloreOptions, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Identity at the start: U (A) or E (B) is zero."""
        self.layout(options, spec)
        site = ExpertsSite if options.variant == "A" else PhmSite
        return AdapterModule(
            {t.path: site(t.inputs, options, dropout) for t in self.targets(options, spec)}
        )

    def lower(
        self, options: AloreOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """P = Δ: one Kronecker operator (A), or one plain low-rank operator of rank h (B)."""
        form: dict[str, LinearForm] = {}
        for t in self.targets(options, spec):
            f = factors_at(t.path, tensors)
            form[t.path] = LinearForm(
                P=(
                    Kronecker(mix=f["A"], down=f["V"], up=f["U"])
                    if options.variant == "A"
                    else LowRank(down=kron_sum(f["A"], f["D"]), up=kron_sum(f["B"], f["E"])),
                )
            )
        return form
