"""Codes of blocks are mixed alike whichever way is the faster one."""

import pytest
import torch

from adapters_store.methods.mixing import mixed


@pytest.mark.parametrize(("count", "blocks", "rank"), [(4, 4, 4), (2, 8, 8), (3, 5, 1), (4, 16, 8)])
def test_both_ways_are_the_kronecker_products_middle(count, blocks, rank):
    """Few codes and many, against the sum written out; with the gradients of both factors."""
    torch.manual_seed(0)
    codes = torch.randn(2, 3, blocks, count * rank, dtype=torch.float64, requires_grad=True)
    mix = torch.randn(count, blocks, blocks, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, blocks, count * rank, dtype=torch.float64)

    found = mixed(codes, mix)

    wanted = torch.stack(
        [mix[i] @ codes.unflatten(-1, (count, rank))[..., i, :] for i in range(count)], dim=-2
    ).flatten(-2)
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad((found * weight).sum(), (codes, mix))
    theirs = torch.autograd.grad((wanted * weight).sum(), (codes, mix))
    torch.testing.assert_close(ours, theirs)
