"""Affine terms in a mixed batch, behind LayerNorms and convolutions: each sample has its own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adapters_store import backbone as backbones
from adapters_store import plain
from adapters_store.normal_form import LinearForm
from adapters_store.plain import Shifted
from serving.engine.engine import Engine
from serving.engine.lane import Plan, SlottedAffine, plan
from serving.engine.layout import Layout, flatten

CHANNELS = 6
KINDS = {  # of adapters: which terms they have at the place
    "both": ("gamma", "beta"),
    "scale": ("gamma",),
    "shift": ("beta",),
    "nothing": (),
}
MODULES = {
    "conv": (nn.Conv2d(3, CHANNELS, 2, stride=2), (3, 8, 4)),
    "pointwise": (nn.Conv2d(3, CHANNELS, 4), (3, 4, 4)),  # one pixel is left
    "unbiased": (nn.Conv2d(3, CHANNELS, 1, bias=False), (3, 5, 3)),
    "tokens": (nn.LayerNorm(CHANNELS), (7, CHANNELS)),
    "one token": (nn.LayerNorm(CHANNELS), (1, CHANNELS)),
    "pooled": (nn.LayerNorm(CHANNELS), (CHANNELS,)),  # fc_norm: no tokens any more
    "map": (nn.LayerNorm(CHANNELS), (3, 2, CHANNELS)),
}


def form_of(kind, number):
    """The terms of one adapter."""
    draw = torch.Generator().manual_seed(number)
    return LinearForm(
        **{name: torch.randn(CHANNELS, generator=draw).double() for name in KINDS[kind]}
    )


def laid(kind, number):
    """Its layout and row, alone or, without terms, those of the bare network."""
    if not KINDS[kind]:
        return Layout((), 0), torch.empty(0).double()
    sizes = {"at": (CHANNELS, 0)}
    return flatten({"at": form_of(kind, number)}, sizes, torch.float64, expanded=False)


def run(module, x, wanted):
    """The module in a lane whose batch wants these pairs of a kind and a number, sorted."""
    running = Plan()
    slotted = SlottedAffine(module, "at", running)
    made = {pair: laid(*pair) for pair in wanted}
    running.batch = len(wanted)
    running.at = plan([made[p][0] for p in wanted], [made[p][1] for p in wanted])
    with torch.inference_mode():
        return slotted(x)


@settings(max_examples=150, deadline=None)
@given(
    where=st.sampled_from(sorted(MODULES)),
    picks=st.lists(
        st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 2)), min_size=1, max_size=9
    ),
    channels_last=st.booleans(),
)
def test_every_sample_of_a_batch_has_its_own_terms(where, picks, channels_last):
    module, shape = MODULES[where]
    module = module.double()
    wanted = sorted(picks)
    x = torch.randn(len(wanted), *shape).double()
    if channels_last and x.ndim == 4 and isinstance(module, nn.Conv2d):
        x = x.to(memory_format=torch.channels_last)
    kept = x.clone()

    y = run(module, x, wanted)

    assert torch.equal(x, kept)
    for i, pair in enumerate(wanted):
        with torch.inference_mode():
            alone = Shifted(module, form_of(*pair))(x[i : i + 1])[0]
        torch.testing.assert_close(y[i], alone)


def test_a_module_that_hands_its_input_on_leaves_the_input_alone():
    x = torch.randn(2, 5, CHANNELS).double()
    kept = x.clone()

    y = run(nn.Identity(), x, [("both", 0), ("both", 1)])

    assert torch.equal(x, kept)
    assert not torch.equal(y, x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_an_image_keeps_its_memory_format(memory_format):
    module, shape = MODULES["conv"]
    module = module.double().to(memory_format=memory_format)
    x = torch.randn(3, *shape).double().to(memory_format=memory_format)

    y = run(module, x, [("both", 0), ("both", 1), ("shift", 0)])

    with torch.inference_mode():
        assert y.stride() == module(x).stride()


@pytest.fixture(scope="module")
def pooling():
    """A ViT that pools before its last norm, which is `fc_norm` then."""
    return backbones.random(
        "vit_base_patch16_reg4_gap_256",
        img_size=32,
        patch_size=8,
        depth=2,
        embed_dim=48,
        num_heads=3,
    )


@pytest.mark.parametrize("method", ["ssf", "bitfit"])
@pytest.mark.parametrize("same", [True, False], ids=["one adapter", "several"])
def test_a_network_that_pools_first_answers_as_the_plain_path(pooling, make_adapter, method, same):
    engine = Engine(pooling)
    seeds = [0] * 4 if same else range(4)
    made = {s: make_adapter(pooling, method, seed=s, effect=False) for s in set(seeds)}
    prepared = {s: engine.prepare(a) for s, a in made.items()}
    others = [make_adapter(pooling, m, seed=9, effect=False) for m in ("lora", "linear")]
    adapters = [*(made[s] for s in seeds), *others]
    pictures = np.random.default_rng(0).integers(0, 256, (len(adapters), 3, 32, 32), np.uint8)

    answers = engine.run(
        pictures, [*(prepared[s] for s in seeds), *(engine.prepare(a) for a in others)]
    )

    for adapter, picture, answer in zip(adapters, pictures, answers, strict=True):
        alone = plain.logits(pooling, adapter, picture[None])[0]
        np.testing.assert_allclose(answer, alone, atol=1e-4, rtol=1e-4)
