"""The loop: it learns, repeats itself bit for bit, and leaves the backbone and the caller alone."""

import dataclasses

import numpy as np
import pytest
import torch

from adapters_store import plain
from adapters_store.backbone import weights_digest
from adapters_store.methods.table import METHODS, parse_options
from adapters_store.pixels import normalise
from training.errors import DivergedError
from training.loop import Watch, fed, fit, live, remembered
from training.recipe import Recipe
from training.trunk import Trunk, stochastic_depth

CPU = torch.device("cpu")


@pytest.fixture
def fitted(tiny, patterns, brief):
    """The maker of trained modules."""

    def make(method="alore", recipe=brief, data=patterns, watch=None):
        options = parse_options(method, {})
        return fit(tiny, method, options, data, recipe, device=CPU, watch=watch or Watch())

    return make


def trunk_of(backbone, drop_path=0.5, dropout=0.0):
    """A trunk with random ALoRE sites."""
    module = METHODS["alore"].module(parse_options("alore", {}), backbone.spec, dropout)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    preprocess = backbone.spec.preprocess()
    return module, Trunk(backbone, module, preprocess, drop_path=drop_path, precision="fp32")


@pytest.mark.parametrize("method", METHODS)
def test_two_runs_give_the_same_bits(fitted, method):
    """Same seed, same data, same threads: same factors, same head, same log."""
    one, two = fitted(method), fitted(method)

    assert torch.equal(one.head.weight, two.head.weight)
    for name, tensor in one.module.export().items():
        assert torch.equal(tensor, two.module.export()[name])
    assert [r.loss for r in one.log] == [r.loss for r in two.log]


def test_another_seed_gives_other_factors(fitted, brief):
    """The seed draws the factors and shuffles the images."""
    other = fitted(recipe=brief.model_copy(update={"seed": 1}))

    assert not torch.equal(fitted().head.weight, other.head.weight)


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss(fitted, method):
    """From chance to better than chance, on patterns that are easy to tell apart."""
    log = fitted(method, Recipe(epochs=12, batch=8, lr=1e-2)).log

    assert log[-1].loss < 0.7 * log[0].loss
    assert log[-1].val_accuracy > 0.5


def test_the_log_has_a_row_an_epoch_and_steps_are_told(fitted, brief):
    """As they happen, and the same rows at the end."""
    rows, steps = [], []

    log = fitted(watch=Watch(on_epoch=rows.append, on_step=lambda *s: steps.append(s))).log

    assert tuple(rows) == log
    assert [(r.epoch, r.epochs) for r in log] == [(1, 3), (2, 3), (3, 3)]
    assert steps == [(n, 9) for n in range(1, 10)]
    assert log[-1].lr == brief.rate(8, 9)


def test_the_frozen_weights_and_modes_never_change(fitted, tiny):
    """Training alters twins: same digest, no gradient, eval mode throughout."""
    before = weights_digest(tiny.net)

    fitted()

    assert weights_digest(tiny.net) == before
    assert all(p.grad is None and not p.requires_grad for p in tiny.net.parameters())
    assert not any(m.training for m in tiny.net.modules())
    assert all(m.fused_attn for m in tiny.net.modules() if hasattr(m, "fused_attn"))


def test_the_callers_random_numbers_are_not_touched(fitted):
    """The next draw is the one that would have come without training."""
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)

    fitted()

    assert torch.equal(torch.rand(3), wanted)


def test_a_batch_may_be_larger_than_the_set(fitted):
    """Then an epoch is one step."""
    assert len(fitted(recipe=Recipe(epochs=2, batch=500)).log) == 2


def test_without_val_the_log_says_so(fitted, patterns):
    """No accuracy is made up."""
    splits = {"train": patterns.train}

    log = fitted(data=dataclasses.replace(patterns, splits=splits)).log

    assert log[-1].val_accuracy is None


def test_divergence_is_an_error_and_no_result(fitted):
    """A loss that is no number ends the run with advice."""
    with pytest.raises(DivergedError, match="smaller lr"):
        fitted(recipe=Recipe(epochs=4, batch=4, lr=1e30))


def test_remembered_features_are_the_live_ones(tiny, patterns):
    """What a linear head learns from is what the network gives, image by image."""
    module = METHODS["linear"].module(parse_options("linear", {}), tiny.spec, 0.0)
    trunk = Trunk(tiny, module, tiny.spec.preprocess(), drop_path=0.0, precision="fp32")
    rows = torch.tensor([3, 1, 20])

    feeds = fed(patterns, Recipe(), CPU)

    kept = remembered(trunk, feeds, batch=5)("train", rows)

    with torch.no_grad():
        torch.testing.assert_close(kept, live(trunk, feeds)("train", rows))


def test_drop_path_acts_in_training_alone(tiny, patterns):
    """In eval mode the trunk is the sited network, in training it is random."""
    module, trunk = trunk_of(tiny)
    images = patterns.train.images[:4]
    mean, std = torch.tensor(tiny.spec.mean), torch.tensor(tiny.spec.std)
    with torch.no_grad():
        plainly = plain.features(
            plain.sited(tiny.net, module), normalise(torch.from_numpy(images), mean, std)
        )
        trunk.train(on=False)
        asleep = trunk.features(images)
        trunk.train(on=True)
        one, two = trunk.features(images), trunk.features(images)

    torch.testing.assert_close(asleep, plainly)
    assert not torch.equal(one, two)
    assert not torch.equal(one, asleep)


def test_the_chance_of_being_left_out_grows_with_depth(tiny):
    """Linear from nothing in the first block; the pristine network gets no such layer."""
    twin = tiny.twin()

    layers = stochastic_depth(twin, 0.3)

    assert [layer.drop_prob for layer in layers] == [0.0, 0.0, 0.3, 0.3]
    assert not any(hasattr(m, "drop_prob") for m in tiny.net.modules())


def test_gradients_reach_every_factor_and_nothing_frozen(tiny, patterns):
    """Backwards through the trunk, after which only the sites hold gradients."""
    module, trunk = trunk_of(tiny, drop_path=0.0)
    trunk.train(on=True)

    trunk.features(patterns.train.images[:4]).square().sum().backward()

    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters())
    assert all(p.grad is None for p in tiny.net.parameters())


def test_bf16_features_are_near_those_in_fp32(tiny, patterns):
    """Autocast rounds; it does not change what is computed."""
    module = METHODS["linear"].module(parse_options("linear", {}), tiny.spec, 0.0)
    full, low = (
        Trunk(tiny, module, tiny.spec.preprocess(), drop_path=0.0, precision=precision)
        for precision in ("fp32", "bf16")
    )
    images = patterns.train.images[:4]
    with torch.no_grad():
        gap = (full.features(images) - low.features(images)).norm() / full.features(images).norm()

    assert low.features(images).dtype == torch.float32
    assert 0 < float(gap) < 0.03
    assert np.isfinite(float(gap))
