"""Low-rank products that add to what is there are what they say, forwards and backwards."""

import pytest
import torch
from torch.nn import functional as F

from adapters_store.methods.dropout import noise
from adapters_store.methods.lowrank import before, beside, stacked


def factors(rank: int) -> tuple[torch.Tensor, ...]:
    """x, y, down, up and what the sum is weighed by, tokens of 6 numbers to 9."""
    shapes = ((2, 5, 6), (2, 5, 9), (rank, 6), (9, rank), (2, 5, 9))
    return tuple(torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_delta_beside_a_target_and_its_gradients_are_those_written_out(rate):
    torch.manual_seed(0)
    x, y, down, up, weight = factors(4)
    torch.manual_seed(1)
    kept = noise(x.new_empty(2, 5, 4), rate) if rate else 1.0
    torch.manual_seed(1)

    found = beside(y.clone(), x, down, up, rate)

    wanted = y + ((x @ down.T) * kept) @ up.T
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad((found * weight).sum(), (x, y, down, up))
    theirs = torch.autograd.grad((wanted * weight).sum(), (x, y, down, up))
    torch.testing.assert_close(ours, theirs)


def test_a_delta_beside_a_view_leaves_what_it_is_a_view_of():
    """Of several tasks in one batch each has its rows of one product."""
    torch.manual_seed(0)
    x, y, down, up, _ = factors(2)
    whole = y * 1.0
    part = whole.split([1, 1])[0]

    beside(part, x[:1], down, up)

    assert torch.equal(whole, y)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_delta_in_front_of_a_target_and_its_gradients_are_those_written_out(rate):
    torch.manual_seed(0)
    x, _, down, _, _ = factors(4)
    up, weight = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.randn(2, 5, 6)
    torch.manual_seed(1)
    kept = noise(x.new_empty(2, 5, 4), rate) if rate else 1.0
    torch.manual_seed(1)

    found = before(x, down, up, rate)

    wanted = x + ((x @ down.T) * kept) @ up.T
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad((found * weight).sum(), (x, down, up))
    theirs = torch.autograd.grad((wanted * weight).sum(), (x, down, up))
    torch.testing.assert_close(ours, theirs)


def test_factors_learn_the_same_where_the_tokens_need_no_gradient():
    """As those in front of the first target."""
    torch.manual_seed(0)
    x, y, down, up, _ = factors(3)
    wanted = torch.autograd.grad(beside(y.clone(), x, down, up).square().sum(), (down, up))

    bare = beside(y.detach().clone(), x.detach(), down, up)

    torch.testing.assert_close(torch.autograd.grad(bare.square().sum(), (down, up)), wanted)


def test_a_delta_and_its_gradients_take_tokens_that_lie_crosswise_in_memory():
    torch.manual_seed(0)
    x, y, down, up, weight = factors(2)
    across = x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    wanted = torch.autograd.grad((beside(y.clone(), x, down, up) * weight).sum(), (x, y, down, up))

    found = beside(y.clone(), across, down, up)

    ours = torch.autograd.grad((found * weight).sum(), (across, y, down, up))
    torch.testing.assert_close(ours, wanted)


def test_under_autocast_the_sum_is_in_the_lower_precision_and_factors_learn_in_their_own():
    x, y, down, up = (t.detach().float().requires_grad_() for t in factors(3)[:4])
    with torch.autocast("cpu", torch.bfloat16):
        found = beside(y.clone(), x, down, up)
    found.sum().backward()

    assert found.dtype == torch.bfloat16
    assert {t.grad.dtype for t in (x, y, down, up)} == {torch.float32}
    torch.testing.assert_close(found.float(), y + x @ down.T @ up.T, rtol=0.03, atol=0.1)


def test_stacked_factors_act_each_on_its_own_rows_by_its_own_codes():
    q, v = torch.randn(3, 2), torch.randn(3, 4)
    code = torch.randn(6)

    whole = stacked({0: q, 6: v}, 9)

    wanted = torch.cat([q @ code[:2], torch.zeros(3), v @ code[2:]])
    torch.testing.assert_close(F.linear(code, whole), wanted)
