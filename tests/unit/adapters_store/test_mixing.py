"""Structured products are the dense ones, forwards and backwards."""

import pytest
import torch

from adapters_store.methods.dropout import noise
from adapters_store.methods.mixing import mixed, structured


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


def factors(count: int, blocks: int, rank: int, products: int) -> tuple[torch.Tensor, ...]:
    """down, mix, ups for tokens of 3 · blocks numbers, to products of 2 · blocks."""
    shapes = ((count * rank, 3), (count, blocks, blocks), (products, 2, count * rank))
    return tuple(torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)


def dense(x, down, mix, ups, kept):
    """The same by Kronecker products that are built; `kept` [..., q, i·r] is what dropout drew."""
    count, blocks, _ = mix.shape
    codes = (x.unflatten(-1, (blocks, -1)) @ down.T) * kept  # [..., q, i·r]
    each = codes.unflatten(-1, (count, -1)).movedim(-2, 0)  # [i, ..., q, r]
    parts = []
    for up in ups:
        of = up.unflatten(-1, (count, -1)).movedim(-2, 0)  # [i, o, r]
        built = [torch.kron(mix[i], of[i]) for i in range(count)]  # [p·o, q·r]
        parts.append(sum(each[i].flatten(-2) @ built[i].T for i in range(count)))
    return torch.cat(parts, dim=-1)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("products", [1, 3])
@pytest.mark.parametrize(("count", "blocks", "rank"), [(4, 4, 2), (2, 16, 16)])
def test_a_structured_product_and_its_gradients_are_the_dense_ones(
    count, blocks, rank, products, rate
):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3 * blocks, dtype=torch.float64, requires_grad=True)
    own = factors(count, blocks, rank, products)
    weight = torch.randn(2, 5, products * 2 * blocks, dtype=torch.float64)
    shape = x.new_empty(2, 5, blocks, count * rank)
    torch.manual_seed(1)
    kept = noise(shape, rate) if rate else torch.ones_like(shape)
    torch.manual_seed(1)

    found = structured(x, *own, rate)

    wanted = dense(x, *own, kept)
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad((found * weight).sum(), (x, *own))
    theirs = torch.autograd.grad((wanted * weight).sum(), (x, *own))
    torch.testing.assert_close(ours, theirs)


def test_a_structured_product_keeps_its_tokens_and_what_dropout_drew_alone():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    own = factors(4, 4, 2, 1)
    kept = []

    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        structured(x, *own, 0.5)

    sizes = sorted(t.numel() for t in kept if t.numel() >= x.numel())
    assert sizes == sorted([x.numel(), 2 * 5 * 4 * 8])
