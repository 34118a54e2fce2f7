"""The cheap dropout against what dropout means."""

import pytest
import torch

from adapters_store.methods.dropout import dropped

RATES = (0.1, 0.5, 0.99999)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rate", RATES)
def test_the_rate_is_met_and_the_rest_grows_to_the_same_mean(
    rate: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    y = dropped(torch.ones(999, 1001, dtype=dtype), rate, training=True)
    five_sigma = 5 * (rate * (1 - rate) / y.numel()) ** 0.5 + 2**-16
    assert abs(float((y == 0).double().mean()) - rate) <= five_sigma
    assert set(y.flatten().tolist()) <= {0.0, float(torch.tensor(1 / (1 - rate), dtype=dtype))}


def test_what_is_dropped_gets_no_gradient_and_the_rest_gets_its_growth() -> None:
    x = torch.randn(7, 5).T.requires_grad_()
    y = dropped(x, 0.5, training=True)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, (y != 0) * 2.0)
    assert torch.equal(y.detach(), x.detach() * x.grad)


def test_a_seed_decides_what_is_dropped() -> None:
    x = torch.ones(10_000)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropped(x, 0.1, training=True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    lost = (dropped(torch.ones(400_000), 0.1, training=True) == 0).double()
    both = torch.stack([(lost[step:] * lost[:-step]).mean() for step in (1, 2, 3, 4, 8)])
    assert torch.all((both - 0.01).abs() < 0.001)


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.1, False)])
def test_without_a_rate_or_outside_of_training_nothing_is_dropped(
    rate: float, training: bool
) -> None:
    x = torch.randn(3, 4)
    assert torch.equal(dropped(x, rate, training=training), x)
