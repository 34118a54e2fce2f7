"""The middle of a structured Kronecker product: codes of blocks, mixed. Knows no paper."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

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
