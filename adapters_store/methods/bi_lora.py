"""Bi-LoRA: LoRA of one bit a number (Jie et al., Binary Adapter, ICCV 2023). Knows no training.

Beside attention's projection, on rows of tokens x, for t = q and v apart:

    y_t = x W_tᵀ + b_t + s · x Â_tᵀ B̂_tᵀ        A_t [h,d], B_t [d,h]

merged as W_t' = W_t + s B̂_t Â_t. A matrix w is trained in full and used quantised, in training too:

    w̄ = (w − mean w) / (std w + 1e-5)      ŵ = Q(w̄) · std w + mean w      Q(w̄) = ±0.6745

where ±0.6745 are the medians of the halves of N(0, 1). Backwards Q counts as the identity, and
mean and std are differentiated. Only the bits are stored, with mean and std of each matrix.

Certain (paper and its code): all of this, h = 32, s by task, A drawn as `nn.Linear` draws it, B
from a normal of std 1e-3 cut at twice that, dropout on the code. So B̂ is never zero, and a fresh
adapter is near the identity but not it. Ours: a tie (w̄ = 0) is the lower half, as in the stored
file of the code, where its forward has a third value; s is folded into mean and std of B.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from adapters_store.methods.lora import part_rows
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

MEDIAN: Final = 0.6744897501960817  # of the upper half of N(0, 1)
_NAMES: Final = ("A_q", "B_q", "A_v", "B_v")
_EPSILON: Final = 1e-5
_UP_STD: Final = 1e-3


class BiLoraOptions(MethodOptions):
    """Rank thirty-two on q and v."""

    rank: int = Field(default=32, ge=1, le=1024)  # h
    scale: float = Field(default=1.0, ge=1e-6, le=1e6)  # s; folded into mean and std of B at export


class BiLoraSite(Site):
    """One target: A_q, A_v [h,d] and B_q, B_v [d,h] in full, and what was loaded of each."""

    def __init__(self, target: Target, options: BiLoraOptions, dropout: float) -> None:
        super().__init__(options.scale)
        self.dropout, self.outputs = dropout, target.outputs
        for name, shape in shapes(target, options).items():
            factor = nn.Parameter(torch.empty(shape))
            if name.startswith("A"):
                nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
            else:
                nn.init.trunc_normal_(factor, std=_UP_STD, a=-2 * _UP_STD, b=2 * _UP_STD)
            self.register_parameter(name, factor)
            # Loaded: quantising a quantised matrix again would move its mean and std.
            self.register_buffer(f"{name}_mean", None)
            self.register_buffer(f"{name}_std", None)

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """frozen(x) with s·xÂᵀB̂ᵀ added to q and v."""
        y, third = frozen(x), self.outputs // 3
        down = torch.cat([self._quantised("A_q"), self._quantised("A_v")])
        ups = {0: self._quantised("B_q"), 2 * third: self._quantised("B_v")}
        up = stacked(ups, self.outputs)
        return beside(y, x, down, up, self.dropout if self.training else 0.0)

    def factors(self) -> dict[str, Tensor]:
        """The bits of every matrix, its mean and its std; those of B times the scale."""
        found: dict[str, Tensor] = {}
        for name, _ in self._own():
            level, mean, std = self._parts(name)
            found |= {name: pack(level > 0), f"{name}_mean": mean, f"{name}_std": std}
        return found

    def load(self, factors: Mapping[str, Tensor]) -> None:
        """Hold these bits, and their mean and std as they are."""
        with torch.no_grad():
            for name, parameter in self._own():
                parameter.copy_(unpack(factors[name], parameter))
                for statistic in (f"{name}_mean", f"{name}_std"):
                    setattr(self, statistic, factors[statistic].to(parameter))

    def _quantised(self, name: str) -> Tensor:
        level, mean, std = self._parts(name)
        return straight_through(level) * std + mean

    def _parts(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """(w̄, mean, std) of a matrix, the scale of B in the last two."""
        w = self.get_parameter(name)
        mean, std = self._buffers[f"{name}_mean"], self._buffers[f"{name}_std"]
        if mean is not None and std is not None:
            return w, mean, std
        mean, std = w.mean().reshape(1), w.std().reshape(1)
        level, s = (w - mean) / (std + _EPSILON), self.scale if name.startswith("B") else 1.0
        return level, s * mean, s * std


def straight_through(w: Tensor) -> Tensor:
    """Q(w), which backwards is the identity."""
    return w + (quantised(w) - w).detach()


def quantised(w: Tensor) -> Tensor:
    """±0.6745 by the sign of each number; zero counts as negative."""
    return (w > 0).to(w.dtype) * (2 * MEDIAN) - MEDIAN


def pack(bits: Tensor) -> Tensor:
    """Bits of any shape, row by row, the first in the lowest place of a byte: U8 [⌈n/8⌉]."""
    flat = F.pad(bits.flatten().to(torch.uint8), (0, -bits.numel() % 8)).view(-1, 8)
    return (flat << _places(bits)).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, like: Tensor) -> Tensor:
    """The code that the bits stand for, ±0.6745, in the shape, dtype and place of `like`."""
    bits = ((packed[:, None] >> _places(packed)) & 1).flatten()[: like.numel()]
    return quantised(bits.to(like) - 0.5).view(like.shape)


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def shapes(target: Target, options: BiLoraOptions) -> dict[str, tuple[int, int]]:
    """Names and shapes of the four matrices at one target."""
    h = options.rank
    return {
        name: (h, target.inputs) if name.startswith("A") else (target.outputs // 3, h)
        for name in _NAMES
    }


class BiLora(Method[BiLoraOptions]):
    """The row of the METHODS table."""

    name = "bi_lora"
    paper = "Bi-LoRA, Binary Adapter, ICCV 2023"
    options = BiLoraOptions
    packed = frozenset(_NAMES)
    exact = frozenset(f"{name}_{statistic}" for name in _NAMES for statistic in ("mean", "std"))

    def layout(self, options: BiLoraOptions, spec: BackboneSpec) -> Layout:
        """Bits, mean and std of four matrices a block."""
        found: dict[str, tuple[int, ...]] = {}
        for t in spec.of_role("qkv"):
            for name, (outputs, inputs) in shapes(t, options).items():
                found[f"{t.path}.{name}"] = (math.ceil(outputs * inputs / 8),)
                found[f"{t.path}.{name}_mean"] = found[f"{t.path}.{name}_std"] = (1,)
        return found

    def count(self, options: BiLoraOptions, spec: BackboneSpec) -> int:
        """4dh a block, each of one bit; mean and std follow from them and are not counted."""
        return sum(2 * options.rank * (t.inputs + t.outputs // 3) for t in spec.of_role("qkv"))

    def module(self, options: BiLoraOptions, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Near the identity at the start: entries of B̂ are about 1e-3 and never zero."""
        return AdapterModule({t.path: BiLoraSite(t, options, dropout) for t in spec.of_role("qkv")})

    def lower(
        self, options: BiLoraOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """Q = one low-rank operator a projection, its factors the quantised matrices."""
        form: dict[str, LinearForm] = {}
        for t in spec.of_role("qkv"):
            f = factors_at(t.path, tensors)
            w = {n: _matrix(f, n, shape) for n, shape in shapes(t, options).items()}
            form[t.path] = LinearForm(
                Q=tuple(
                    LowRank(down=w[f"A_{p}"], up=w[f"B_{p}"], rows=part_rows(p, t)) for p in "qv"
                )
            )
        return form

    def faults(
        self, options: BiLoraOptions, spec: BackboneSpec, tensors: Mapping[str, NDArray[Any]]
    ) -> tuple[str, ...]:
        """Bits behind the last number that are not zero, and a std below zero."""
        found = []
        for t in spec.of_role("qkv"):
            for name, (outputs, inputs) in shapes(t, options).items():
                path, used = f"{t.path}.{name}", outputs * inputs % 8
                if used and tensors[path][-1] >> used:
                    found.append(f"tensor {path!r} has bits behind its last number")
                if tensors[f"{path}_std"][0] < 0:
                    found.append(f"tensor '{path}_std' is below zero")
        return tuple(found)


def _matrix(factors: Mapping[str, Tensor], name: str, shape: tuple[int, int]) -> Tensor:
    """The matrix that bits, mean and std stand for."""
    mean, std = factors[f"{name}_mean"], factors[f"{name}_std"]
    return unpack(factors[name], std.expand(shape)) * std + mean
