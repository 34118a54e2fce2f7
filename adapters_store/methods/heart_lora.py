"""Heart-LoRA: LoRA at the heads that respond (arXiv 2404.08894). Knows no training, no serving.

Beside attention's projection, on rows of tokens x, for t = q and v apart:

    y_t = x W_tᵀ + b_t + s · M ⊙ (x A_tᵀ B_tᵀ)        A_t [r,d], B_t [d,r]

merged as W_t' = W_t + s diag(M) B_t A_t. M repeats a mask over heads: where it is off, the head
keeps its frozen weights and loses its change. Only rows of B at active heads are stored.

Certain (abstract and appendix): heads are switched off by their responsiveness, judged by index
over all layers or (†) in each layer, n_e of them, or on Swin a percentage of each block's heads.
Inferred: r = 8, n_e = 4 of 12, A and B for q and v apart as in Bi-LoRA's base code, which also
gives the initialisation (A as `nn.Linear` draws it, B zero) and dropout on the code. Who scores
heads, and when, is training's: a fresh module has its first heads on.

On Swin "all layers" are the blocks with the same number of heads. ConvNeXt and Mixer have no
heads: that the method is offered there is our extension and not the paper's. There it sits on the
first linear of the channel MLP, and a "head" is a run of 64 of its outputs, or of the next smaller
number that divides them.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from adapters_store.families import FAMILIES
from adapters_store.methods.heads import HEADS, HEADS_MOST, ActiveHeads, groups, rows_of
from adapters_store.methods.lowrank import beside, stacked
from adapters_store.methods.protocol import (
    SHARED,
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


class HeartLoraOptions(MethodOptions):
    """Rank eight on q and v, a third of the heads off: 4 of 12."""

    rank: int = Field(default=8, ge=1, le=1024)
    scale: float = Field(default=1.0, ge=1e-6, le=1e6)  # s; folded into B at export
    choice: Literal["global", "layer"] = "global"  # layer: †, each layer has its own heads off
    heads_off: int | None = Field(default=None, ge=0)  # n_e, where all layers have as many heads
    heads_off_percent: float | None = Field(default=None, ge=0, lt=100)  # of each layer's heads

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if self.heads_off is not None and self.heads_off_percent is not None:
            raise ValueError("heads_off and heads_off_percent exclude each other")
        return self


class HeartSite(Site):
    """One target: A* [r,in] and B* [outputs,r], all rows of B while training."""

    scaled = frozenset({"B", "B_q", "B_v"})

    def __init__(
        self, target: Target, options: HeartLoraOptions, active: ActiveHeads, dropout: float
    ) -> None:
        super().__init__(options.scale)
        self.dropout, self.active = dropout, active
        self.heads, self.width, self.starts = groups(target)
        self.lists = False  # whether the list of heads is stored here
        self.gates: Tensor | None = None  # ξ [H], while heads are scored
        for part in self.starts:
            down = nn.Parameter(torch.empty(options.rank, target.inputs))
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            self.register_parameter(f"A{part}", down)
            up = torch.zeros(self.heads * self.width, options.rank)
            self.register_parameter(f"B{part}", nn.Parameter(up))

    def rows(self) -> Tensor:
        """Which rows of B belong to active heads: bool [outputs]."""
        return self.active.on.repeat_interleave(self.width)

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """frozen(x) with s·ξ ⊙ M ⊙ xAᵀBᵀ added to the adapted projections."""
        y = frozen(x)
        gates = self.rows()[:, None]
        if self.gates is not None:
            gates = gates * self.gates.repeat_interleave(self.width)[:, None]
        down = torch.cat([self.get_parameter(f"A{part}") for part in self.starts])
        ups = {start: self.get_parameter(f"B{part}") * gates for part, start in self.starts.items()}
        up = self.scale * stacked(ups, y.shape[-1])
        return beside(y, x, down, up, self.dropout if self.training else 0.0)

    def factors(self) -> dict[str, Tensor]:
        """Every A, of every B the rows of active heads, and the list where it is stored here."""
        whole, rows = super().factors(), self.rows()
        own = {n: f[rows] if n in self.scaled else f for n, f in whole.items()}
        return {**own, **self.active.factors()} if self.lists else own

    def load(self, factors: Mapping[str, Tensor]) -> None:
        """The inverse of `factors`; rows of heads that are off are zero."""
        if self.lists:
            self.active.load(factors)
        whole, rows = dict(factors), self.rows()
        for name in self.scaled & factors.keys():
            whole[name] = factors[name].new_zeros(len(rows), factors[name].shape[1])
            whole[name][rows] = factors[name]
        super().load(whole)


def kept(target: Target, options: HeartLoraOptions) -> int:
    """How many heads of a target stay on: at least one, whatever the percentage."""
    heads = groups(target)[0]
    if options.heads_off is not None:
        return heads - options.heads_off
    percent = 100 / 3 if options.heads_off_percent is None else options.heads_off_percent
    return max(1, heads - math.floor(heads * percent / 100 + 0.5))


class HeartLora(Method[HeartLoraOptions]):
    """The row of the METHODS table."""

    name = "heart_lora"
    paper = "Heart-LoRA, arXiv 2404.08894"
    options = HeartLoraOptions
    families = frozenset(FAMILIES)
    packed = frozenset({HEADS})

    def targets(self, options: HeartLoraOptions, spec: BackboneSpec) -> tuple[Target, ...]:
        """Attention's projection, or the first linear of the channel MLP where there is none.

        Raises:
            ValueError: heads cannot be switched off so.
        """
        targets = spec.of_role("qkv") or spec.of_role("fc1")
        counts, off = sorted({groups(t)[0] for t in targets}), options.heads_off or 0
        if counts[-1] > HEADS_MOST:
            raise ValueError(f"a layer has {counts[-1]} heads; a byte names one of {HEADS_MOST}")
        if options.heads_off is not None and len(counts) > 1:
            listed = ", ".join(map(str, counts))
            raise ValueError(f"layers have {listed} heads: give heads_off_percent, not heads_off")
        if off >= counts[0]:
            raise ValueError(f"{off} heads off would leave none of {counts[0]} on")
        return targets

    def list_of(self, options: HeartLoraOptions, spec: BackboneSpec) -> dict[str, str]:
        """Target path → stored name of its list of heads: one list where it is true of all."""
        targets = self.targets(options, spec)
        once = options.choice == "global" and len({groups(t)[0] for t in targets}) == 1
        return {t.path: f"{SHARED if once else t.path}.{HEADS}" for t in targets}

    def layout(self, options: HeartLoraOptions, spec: BackboneSpec) -> Layout:
        """A and packed B for every adapted projection, and the lists of heads.

        Raises:
            ValueError: as `targets`.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        lists = self.list_of(options, spec)
        for t in self.targets(options, spec):
            _, width, starts = groups(t)
            shapes[lists[t.path]] = (kept(t, options),)
            for part in starts:
                shapes[f"{t.path}.A{part}"] = (options.rank, t.inputs)
                shapes[f"{t.path}.B{part}"] = (kept(t, options) * width, options.rank)
        return shapes

    def count(self, options: HeartLoraOptions, spec: BackboneSpec) -> int:
        """2r(d + 64k) a block with k = H - n_e heads on; r(d + wk) where heads are runs of w."""
        return sum(
            len(starts) * options.rank * (t.inputs + width * kept(t, options))
            for t in self.targets(options, spec)
            for _, width, starts in (groups(t),)
        )

    def module(
        self, options: HeartLoraOptions, spec: BackboneSpec, dropout: float
    ) -> AdapterModule:
        """Identity at the start: B is zero. Sites that are judged together share their list."""
        lists, judged, shared = self.list_of(options, spec), dict[str, ActiveHeads](), None
        sites: dict[str, HeartSite] = {}
        for t in self.targets(options, spec):
            heads = groups(t)[0]
            group = t.path if options.choice == "layer" else str(heads)
            active = judged.setdefault(group, ActiveHeads(heads, kept(t, options)))
            sites[t.path] = site = HeartSite(t, options, active, dropout)
            site.lists = lists[t.path].startswith(t.path)
            shared = None if site.lists else active
        return AdapterModule(sites, shared=shared)

    def lower(
        self, options: HeartLoraOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """Q = one low-rank operator a projection, at the rows of its active heads.

        Rows are a list and not runs of neighbours: so adapters with other heads on lie alike on a
        device, and one batch takes them together.
        """
        lists = self.list_of(options, spec)
        form: dict[str, LinearForm] = {}
        for t in self.targets(options, spec):
            f, heads = factors_at(t.path, tensors), tensors[lists[t.path]]
            form[t.path] = LinearForm(
                Q=tuple(
                    LowRank(down=f[f"A{part}"], up=f[f"B{part}"], rows=rows_of(heads, t, start))
                    for part, start in groups(t)[2].items()
                )
            )
        return form

    def faults(
        self, options: HeartLoraOptions, spec: BackboneSpec, tensors: Mapping[str, NDArray[Any]]
    ) -> tuple[str, ...]:
        """Lists that do not ascend, name no head, or differ where the choice is global."""
        lists = self.list_of(options, spec)
        counts = {lists[t.path]: groups(t)[0] for t in self.targets(options, spec)}
        first = {heads: name for name, heads in reversed(counts.items())}
        found = []
        for name, heads in counts.items():
            listed = tensors[name]
            if (listed[1:] <= listed[:-1]).any():
                found.append(f"tensor {name!r} does not ascend, each head once")
            if (listed >= heads).any():
                found.append(f"tensor {name!r} names head {listed.max()} of {heads}, from 0")
            if options.choice == "global" and (listed != tensors[first[heads]]).any():
                found.append(f"tensor {name!r} is not {first[heads]!r}, but the choice is global")
        return tuple(found)
