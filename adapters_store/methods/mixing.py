"""Structured Kronecker products, in training: codes of blocks, mixed. Knows no paper."""

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from adapters_store.methods.lowrank import drawn, working

_DENSE: Final = 256  # numbers of a token's codes, up to which one product is the faster way


def mixed(codes: Tensor, mix: Tensor) -> Tensor:
    """z'[p, i] = Σ_q mix_i[p, q] z[q, i], each z[q, i] being a vector of r numbers.

    Few codes are multiplied by one matrix of q·i·r columns that is nearly all zeros: transposing
    them, as a product for each i would, costs more than the zeros do (forwards and backwards 2 to
    3 times as much in bf16 on a CPU, for 64 codes).

    Args:
        codes: z [..., q, i·r].
        mix: [i, p, q].

    Returns:
        z' [..., p, i·r]
    """
    count, blocks, _ = mix.shape
    width = codes.shape[-1]
    if codes.shape[-2] * width > _DENSE:
        apart = codes.reshape(*codes.shape[:-1], count, -1)
        return torch.einsum("...qir,ipq->...pir", apart, mix).flatten(-2)
    each = torch.diag_embed(mix.permute(1, 2, 0).repeat_interleave(width // count, dim=-1))
    matrix = each.permute(0, 2, 1, 3).reshape(blocks * width, -1)  # [p·i·r, q·i·r]
    return F.linear(codes.flatten(-2), matrix).reshape(*codes.shape[:-2], blocks, width)


def structured(x: Tensor, down: Tensor, mix: Tensor, ups: Tensor, rate: float = 0.0) -> Tensor:
    """Σ_i mix_i ⊗ (up_i down_i) on tokens, its codes dropped out at `rate`; nothing dense is built.

    Backwards it needs x and what dropout drew, and computes the codes again: autograd alone would
    keep them three times, a sixth of what training an adapter keeps.

    Args:
        x: tokens [..., q · in/q].
        down: [i·r, in/q].
        mix: [i, p, q].
        ups: [k, out/p, i·r]: k products that share their codes.
        rate: of dropout.

    Returns:
        [..., k · p · out/p]
    """
    kind = working(x)
    blocks = x.to(kind).reshape(*x.shape[:-1], -1, down.shape[-1])
    factors = (down.to(kind), mix.to(kind), ups.to(kind))
    y: Tensor = _Structured.apply(blocks, *factors, drawn(blocks, len(down), rate))
    return y


class _Structured(torch.autograd.Function):
    """The product on blocks [..., q, in/q]; all of one dtype."""

    @staticmethod
    def forward(
        ctx: Any, blocks: Tensor, down: Tensor, mix: Tensor, ups: Tensor, kept: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(blocks, down, mix, ups, kept)
        codes = mixed(_codes(blocks, down, kept), mix)
        return torch.cat([F.linear(codes, up).flatten(-2) for up in ups], dim=-1)

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor, None]:
        blocks, down, mix, ups, kept = ctx.saved_tensors
        count, size, width = ups.shape
        # [k, ..., p, out/p]: of each product
        each = gradients[0].reshape(*blocks.shape[:-2], count, -1, size).movedim(-3, 0)
        with torch.enable_grad():
            codes = _codes(blocks, down, kept).requires_grad_()
            mix = mix.detach().requires_grad_()
            found = mixed(codes, mix)
        flat = found.detach().reshape(-1, width)
        d_ups = torch.stack([g.reshape(-1, size).T @ flat for g in each])
        d_found = sum(g @ up for g, up in zip(each, ups, strict=True))
        d_codes, d_mix = torch.autograd.grad(found, (codes, mix), d_found)
        d_codes = d_codes if kept is None else d_codes * kept
        d_down = d_codes.reshape(-1, width).T @ blocks.reshape(-1, blocks.shape[-1])
        # In front of the first target nothing learns.
        d_blocks = d_codes @ down if ctx.needs_input_grad[0] else None
        return d_blocks, d_down, d_mix, d_ups, None


def _codes(blocks: Tensor, down: Tensor, kept: Tensor | None) -> Tensor:
    """[..., q, in/q] → [..., q, i·r], without a way back."""
    codes = F.linear(blocks.detach(), down.detach())
    return codes if kept is None else codes * kept
