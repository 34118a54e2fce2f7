"""FacT: factor-tuning (Jie and Deng, AAAI 2023, arXiv 2212.03145). Knows no training, no serving.

The weights of all linear layers are taken apart into n blocks of d × d: q, k, v and proj are one
each, fc1 is four above each other and fc2 four side by side. One U and one V serve all blocks, and
each has a core, on columns x:

    Δ_k = s · V S_k U        U [r,d], V [d,r], S_k [r,r], k = 1..n        W' = W + Δ
    tensor train (fact_tt)   S_k trained                                  2dr + n r² numbers
    Tucker (fact_tk)         S_k = C ×₃ P[:,k], C [r,r,r], P [r,n]        2dr + n r + r³ numbers

In fc2 the four parts of x go through U and their cores, and then the sum goes through V.

Certain (paper, released code): all of it, V = 0 at the start, U and the tensor train's cores as
`nn.Linear` draws its weight (fc2's four as one layer of 4r inputs), C and P Xavier-uniform, dropout
on what the cores give, r at most 16 (tensor train) or 32 (Tucker) and s in {0.01, .. 100}, both
searched for every task. The Tucker code reshapes [r,r,4] to [r,4r] in the MLP, which interleaves
the four cores; here the paper's equation holds for every block.
"""

import math
from collections.abc import Mapping

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

Grid = tuple[int, int]  # blocks above each other, blocks side by side; one of the two is 1


class FactOptions(MethodOptions):
    """Rank sixteen."""

    rank: int = Field(default=16, ge=1, le=256)  # r
    scale: float = Field(default=1.0, ge=1e-6, le=1e6)  # s; folded into V at export


class FactTkOptions(FactOptions):
    """Rank thirty-two: Tucker's cores cost less."""

    rank: int = Field(default=32, ge=1, le=256)  # r


class Basis(Factors):
    """What all blocks share: U [r,d], V [d,r] and, of Tucker, C [r,r,r] and P [r,n]."""

    scaled = frozenset({"V"})

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], options: FactOptions) -> None:
        super().__init__(options.scale)
        for name, shape in shapes.items():
            factor = nn.Parameter(torch.zeros(shape))
            if name == "U":
                nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
            elif name != "V":
                nn.init.xavier_uniform_(factor)
            self.register_parameter(name, factor)


class FactSite(Site):
    """The blocks of one target, over a basis; a tensor train's with cores S [blocks,r,r]."""

    def __init__(
        self, grid: Grid, first: int, basis: Basis, options: FactOptions, dropout: float
    ) -> None:
        """Cut the target by `grid`; `first` of its blocks is the first-th of the network."""
        super().__init__()
        self.grid, self.first, self.basis, self.dropout = grid, first, basis, dropout
        if "C" not in dict(basis.named_parameters()):
            fan_in = grid[1] * options.rank
            S = torch.empty(math.prod(grid), options.rank, options.rank)
            self.register_parameter("S", nn.Parameter(S.uniform_(-(fan_in**-0.5), fan_in**-0.5)))

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """Frozen(x), and V of the cores' sum of U of the parts of x beside it, times s."""
        shared = dict(self.basis.named_parameters())
        S = cores(dict(self._own()), shared, self.first, math.prod(self.grid))
        S = S.reshape(*self.grid, *S.shape[1:])
        down = torch.einsum("ijsr,rd->isjd", S, shared["U"]).flatten(2).flatten(0, 1)
        code = dropped(F.linear(x, down), self.dropout, training=self.training)
        up = self.basis.scale * shared["V"]
        return frozen(x) + F.linear(code.reshape(*code.shape[:-1], self.grid[0], -1), up).flatten(
            -2
        )


def cores(
    own: Mapping[str, Tensor], shared: Mapping[str, Tensor], first: int, count: int
) -> Tensor:
    """The cores of one target, [blocks,r,r]: its own, or mixed by its columns of P."""
    if "S" in own:
        return own["S"]
    return torch.einsum("abm,mk->kab", shared["C"], shared["P"][:, first : first + count])


def blocks_of(spec: BackboneSpec) -> tuple[tuple[Target, Grid, int], ...]:
    """Every target, how it is cut into blocks, and how many blocks are in front of it.

    Raises:
        ValueError: a target is no row and no column of blocks of the network's width.
    """
    d = spec.of_role("qkv")[0].inputs
    found, first = [], 0
    for t in spec.targets:
        grid = (t.outputs // d, t.inputs // d)
        if (grid[0] * d, grid[1] * d) != (t.outputs, t.inputs) or min(grid) != 1:
            raise ValueError(
                f"{t.path} is {t.outputs} by {t.inputs}: no row and no column of {d} by {d} blocks"
            )
        found.append((t, grid, first))
        first += math.prod(grid)
    return tuple(found)


class FactTt(Method[FactOptions]):
    """The row of the METHODS table for the tensor train."""

    name = "fact_tt"
    paper = "FacT (tensor train), arXiv 2212.03145"
    options = FactOptions

    def shared(self, options: FactOptions, spec: BackboneSpec) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what all blocks share.

        Raises:
            ValueError: as `blocks_of`.
        """
        d, r = blocks_of(spec)[0][0].inputs, options.rank
        return {"U": (r, d), "V": (d, r)}

    def layout(self, options: FactOptions, spec: BackboneSpec) -> Layout:
        """Two factors, and the cores of every target.

        Raises:
            ValueError: as `blocks_of`.
        """
        r = options.rank
        shared = {f"{SHARED}.{n}": shape for n, shape in self.shared(options, spec).items()}
        if f"{SHARED}.C" in shared:
            return shared
        own = {f"{t.path}.S": (math.prod(grid), r, r) for t, grid, _ in blocks_of(spec)}
        return {**shared, **own}

    def count(self, options: FactOptions, spec: BackboneSpec) -> int:
        """2dr + n r², with n = 12 blocks a layer where the MLP is 4d wide."""
        d, n, r = *size(spec), options.rank
        return 2 * d * r + n * r * r

    def module(self, options: FactOptions, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Identity at the start: V is zero."""
        basis = Basis(self.shared(options, spec), options)
        sites = {
            t.path: FactSite(grid, first, basis, options, dropout)
            for t, grid, first in blocks_of(spec)
        }
        return AdapterModule(sites, shared=basis)

    def lower(
        self, options: FactOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """Q = one low-rank operator a block, at its rows or columns.

        U and V are one object for all blocks of all targets: they lie in a server's row once, and
        blocks above each other share the product with U, those side by side the one with V. Folding
        the cores into V would save their products, 2 % of the arithmetic, and make the row many
        times as long.
        """
        shared = factors_at(SHARED, tensors)
        form: dict[str, LinearForm] = {}
        for t, grid, first in blocks_of(spec):
            own = factors_at(t.path, tensors)
            runs = [
                slice(i * len(shared["V"]), (i + 1) * len(shared["V"])) for i in range(max(grid))
            ]
            form[t.path] = LinearForm(
                Q=tuple(
                    LowRank(
                        down=shared["U"],
                        core=core,
                        up=shared["V"],
                        rows=run if grid[0] > 1 else None,
                        cols=run if grid[1] > 1 else None,
                    )
                    for run, core in zip(
                        runs, cores(own, shared, first, math.prod(grid)), strict=True
                    )
                )
            )
        return form


def size(spec: BackboneSpec) -> tuple[int, int]:
    """(d, n): the network's width, and how many blocks it has."""
    last, grid, first = blocks_of(spec)[-1]
    return min(last.inputs, last.outputs), first + math.prod(grid)


class FactTk(FactTt):
    """The row of the METHODS table for Tucker's decomposition."""

    name = "fact_tk"
    paper = "FacT (Tucker), arXiv 2212.03145"
    options = FactTkOptions

    def shared(self, options: FactOptions, spec: BackboneSpec) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what all blocks share: everything.

        Raises:
            ValueError: as `blocks_of`.
        """
        r = options.rank
        return {**super().shared(options, spec), "C": (r, r, r), "P": (r, size(spec)[1])}

    def count(self, options: FactOptions, spec: BackboneSpec) -> int:
        """2dr + n r + r³."""
        d, n, r = *size(spec), options.rank
        return 2 * d * r + n * r + r**3
