"""Low-rank products on tokens in training, in as few operations as they can be. Knows no paper.

Their factors are small, so what they cost is the passes over tokens and, on a CPU, the waits where
threads meet: a product that adds to what is there saves both.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adapters_store.methods.dropout import noise


def beside(y: Tensor, x: Tensor, down: Tensor, up: Tensor, rate: float = 0.0) -> Tensor:
    """The sum y + dropped(x downᵀ) upᵀ, for a delta beside a target.

    Backwards it needs x and what dropout drew, and computes the codes again.

    Args:
        y: what the target's product gave, [..., out], and nobody else has: the sum may be written
            into it.
        x: what it was given, [..., in].
        down: [r, in].
        up: [out, r].
        rate: of dropout, on the codes.
    """
    kind = working(x)
    x, down, up = x.to(kind), down.to(kind), up.to(kind)
    sum_: Tensor = _LowRank.apply(y.to(kind), x, down, up, drawn(x, len(down), rate))
    return sum_


def before(x: Tensor, down: Tensor, up: Tensor, rate: float = 0.0) -> Tensor:
    """The sum x + dropped(x downᵀ) upᵀ, for a delta in front of a target; as `beside`."""
    kind = working(x)
    x, down, up = x.to(kind), down.to(kind), up.to(kind)
    sum_: Tensor = _LowRank.apply(None, x, down, up, drawn(x, len(down), rate))
    return sum_


def working(x: Tensor) -> torch.dtype:
    """What products of x are computed in."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def drawn(x: Tensor, codes: int, rate: float) -> Tensor | None:
    """What dropout multiplies the codes of x by, [..., codes]; None where nothing is dropped."""
    return noise(x.new_empty(*x.shape[:-1], codes), rate) if rate else None


def stacked(ups: Mapping[int, Tensor], outputs: int) -> Tensor:
    """Each `up` [size, r] at its first row, with columns of its own: one matrix [outputs, Σr]."""
    return torch.cat(
        [F.pad(up, (0, 0, first, outputs - first - len(up))) for first, up in ups.items()], dim=1
    )


class _LowRank(torch.autograd.Function):
    """y + (x downᵀ · kept) upᵀ, where no y stands for x; all of one dtype."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor | None, x: Tensor, down: Tensor, up: Tensor, kept: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, down, up, kept)
        ctx.beside = y is not None
        codes = _codes(x.flatten(0, -2), down, kept)
        if y is None and not x.is_contiguous():  # as a mixer's: the sum lies in memory as x does
            return x + (codes @ up.T).view(x.shape)
        if y is None:
            return torch.addmm(x.flatten(0, -2), codes, up.T).view(x.shape)
        shared = y._is_view() or torch.is_inference_mode_enabled()  # noqa: SLF001 (public in all but its name)
        if shared or not y.is_contiguous():
            return torch.addmm(y.flatten(0, -2), codes, up.T).view(y.shape)
        ctx.mark_dirty(y)
        y.view(-1, y.shape[-1]).addmm_(codes, up.T)
        return y

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, None]:
        x, down, up, kept = ctx.saved_tensors
        tokens, d_y = x.flatten(0, -2), gradients[0].flatten(0, -2)
        d_up = (_codes(tokens, down, kept).T @ d_y).T
        d_codes = d_y @ up
        if kept is not None:
            d_codes *= kept.flatten(0, -2)
        d_down = d_codes.T @ tokens
        d_x = None  # in front of the first target nothing learns
        if ctx.needs_input_grad[1]:
            d_x = d_codes @ down if ctx.beside else torch.addmm(d_y, d_codes, down)
            d_x = d_x.view(x.shape)
        return gradients[0] if ctx.beside else None, d_x, d_down, d_up, None


def _codes(tokens: Tensor, down: Tensor, kept: Tensor | None) -> Tensor:
    codes = tokens @ down.T
    return codes if kept is None else codes.mul_(kept.flatten(0, -2))
