"""CLoRA: collaborative low-rank adaptation (arXiv 2512.24603). Knows no training, no serving.

Before attention and before the MLP, on rows of tokens x, in module j of m:

    x̂ = x + s · x Σ_h D_h Q_h^j U_h + e_j       D_h [d,r], U_h [r,d], Q_h^j [r,r], h = 1..p

merged as W' = W (I + sΔ_jᵀ), b' = b + W e_j. The p base spaces D_h, U_h are shared by the modules
of one task (not by tasks); a module's own are only its cores Q and the bias e, which s does not
scale.

Certain (abstract and reading notes of §IV): Δ_j, the sharing, (2dr + m r²)p + c parameters, rank
at most p·r, an identity branch, merging into the frozen projection, r = 8. Inferred: where the
modules are, one pool for all of them or one for attention and one for the MLP (`pools`), p = 8,
c = m·d being biases, and the initialisation: D_h and U_h Xavier-uniform, drawn apart for each h
lest the spaces collapse into one, and Q = 0, e = 0, so that x̂ = x at the start.

Modules share what their width lets them: where widths differ by stage (Swin, ConvNeXt) or by axis
(a Mixer's tokens and channels) there is a pool for every width, and a factor's name says which:
shared.D_768. A target without bias has no e, for nothing could hold W e.
"""

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from adapters_store.families import FAMILIES
from adapters_store.methods.lowrank import before
from adapters_store.methods.protocol import (
    SHARED,
    AdapterModule,
    Factors,
    Frozen,
    Layout,
    Method,
    MethodOptions,
    Site,
    bounded,
    factors_at,
)
from adapters_store.normal_form import LinearForm, LowRank, NormalForm
from adapters_store.spec import BackboneSpec, Target


class CloraOptions(MethodOptions):
    """Eight base spaces of rank eight, shared by all modules of one width."""

    rank: int = Field(default=8, ge=1, le=256)  # r
    spaces: int = Field(default=8, ge=1, le=64)  # p
    pools: Literal[1, 2] = 1  # 2: attention and MLP share nothing
    scale: float = Field(default=1.0, ge=1e-6, le=1e6)  # s; folded into Q at export

    @model_validator(mode="after")
    def _together_modest(self) -> Self:
        bounded(self.spaces * self.rank, 1024, "spaces x rank")
        return self


class Spaces(Factors):
    """The base spaces of every pool: D [p,d,r] and U [p,r,d], named by pool."""

    def __init__(self, pools: Mapping[str, int], options: CloraOptions) -> None:
        super().__init__()
        for pool, width in pools.items():
            for name, shape in base_shapes(pool, width, options).items():
                factor = torch.empty(shape)
                for space in factor:
                    nn.init.xavier_uniform_(space)
                self.register_parameter(name, nn.Parameter(factor))

    def of(self, pool: str) -> tuple[Tensor, Tensor]:
        """D and U of one pool."""
        return self.get_parameter(f"D_{pool}"), self.get_parameter(f"U_{pool}")


class CloraSite(Site):
    """One module: Q [p,r,r] and, where the target has a bias, e [d], over spaces that it shares."""

    scaled = frozenset({"Q"})

    def __init__(
        self, target: Target, spaces: Spaces, options: CloraOptions, dropout: float
    ) -> None:
        super().__init__(options.scale)
        self.dropout, self.pool, self.spaces = dropout, pool_of(target, options), spaces
        for name, shape in own_shapes(target, options).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """frozen(x + s·x Σ D_h Q_h U_h + e), the spaces side by side and each code by its core."""
        D, U = self.spaces.of(self.pool)
        up = self.scale * (self.get_parameter("Q") @ U).flatten(0, 1).T  # [d, p·r]
        x = before(x, D.mT.flatten(0, 1), up, self.dropout if self.training else 0.0)
        own = dict(self._own())
        return frozen(x + own["e"].to(x.dtype) if "e" in own else x)


def pool_of(target: Target, options: CloraOptions) -> str:
    """The name of the pool that a module draws on: its width, and with two pools its place."""
    if options.pools == 1:
        return str(target.inputs)
    return f"{'mlp' if target.role == 'fc1' else 'attention'}_{target.inputs}"


def base_shapes(pool: str, width: int, options: CloraOptions) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the factors that a pool holds."""
    p, r = options.spaces, options.rank
    return {f"D_{pool}": (p, width, r), f"U_{pool}": (p, r, width)}


def own_shapes(target: Target, options: CloraOptions) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the factors that are one module's alone."""
    p, r = options.spaces, options.rank
    own: dict[str, tuple[int, ...]] = {"Q": (p, r, r)}
    return {**own, "e": (target.inputs,)} if target.bias else own


class Clora(Method[CloraOptions]):
    """The row of the METHODS table."""

    name = "clora"
    paper = "CLoRA, arXiv 2512.24603"
    options = CloraOptions
    families = frozenset(FAMILIES)

    def targets(self, options: CloraOptions, spec: BackboneSpec) -> tuple[Target, ...]:
        """In front of what mixes tokens and of the MLP."""
        return spec.in_front("both")

    def pools(self, options: CloraOptions, spec: BackboneSpec) -> dict[str, int]:
        """Width of every pool, by name, in the order of the network."""
        return {pool_of(t, options): t.inputs for t in self.targets(options, spec)}

    def layout(self, options: CloraOptions, spec: BackboneSpec) -> Layout:
        """Two shared factors a pool, and one or two factors a target."""
        shared = {
            f"{SHARED}.{name}": shape
            for pool, width in self.pools(options, spec).items()
            for name, shape in base_shapes(pool, width, options).items()
        }
        own = {
            f"{t.path}.{name}": shape
            for t in self.targets(options, spec)
            for name, shape in own_shapes(t, options).items()
        }
        return {**shared, **own}

    def count(self, options: CloraOptions, spec: BackboneSpec) -> int:
        """(2dr + m r²)p + c, with 2dr once for every pool and c = d for every target with bias."""
        p, r = options.spaces, options.rank
        targets = self.targets(options, spec)
        shared = sum(2 * width * r for width in self.pools(options, spec).values())
        return (shared + len(targets) * r * r) * p + sum(t.inputs for t in targets if t.bias)

    def module(self, options: CloraOptions, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Identity at the start: Q and e are zero."""
        spaces = Spaces(self.pools(options, spec), options)
        sites = {
            t.path: CloraSite(t, spaces, options, dropout) for t in self.targets(options, spec)
        }
        return AdapterModule(sites, shared=spaces)

    def lower(
        self, options: CloraOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """P = one low-rank operator of rank p·r: all spaces side by side, the cores on a diagonal.

        Down and up are one object for all targets of a pool, so that they lie in a server's row
        once, and only the core is a target's own. Folding it into up would save a product of
        4 % of the arithmetic, which could not be measured on a CPU, and make the row six times as
        long (ViT-B/16, p = 8).
        """
        shared = factors_at(SHARED, tensors)
        # Columns turn every product round: (D Q U)ᵀ = Uᵀ Qᵀ Dᵀ.
        downs = {pool: shared[f"D_{pool}"].mT.flatten(0, 1) for pool in self.pools(options, spec)}
        ups = {pool: shared[f"U_{pool}"].flatten(0, 1).mT for pool in downs}
        form: dict[str, LinearForm] = {}
        for t in self.targets(options, spec):
            f, pool = factors_at(t.path, tensors), pool_of(t, options)
            core = torch.block_diag(*f["Q"].mT)  # type: ignore[no-untyped-call]
            form[t.path] = LinearForm(
                P=(LowRank(down=downs[pool], core=core, up=ups[pool]),), c=f.get("e")
            )
        return form
