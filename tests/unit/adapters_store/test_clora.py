"""CLoRA: what the law cannot see. Who shares which spaces, in an artifact and in a server's row."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from adapters_store import artifact, plain
from adapters_store import backbone as backbones
from adapters_store.backbone import Backbone
from adapters_store.methods.clora import Clora, CloraOptions
from adapters_store.methods.protocol import SHARED
from adapters_store.normal_form import dense
from serving.engine.engine import Engine

CLORA = Clora()


def shared_names(options, spec):
    """Names of the shared factors, without their prefix."""
    layout = CLORA.layout(options, spec)
    return sorted(n.removeprefix("shared.") for n in layout if n.startswith(f"{SHARED}."))


def without_bias(backbone, role):
    """A backbone whose targets of one role have no bias."""
    net = copy.deepcopy(backbone.net)
    for target in backbone.spec.of_role(role):
        net.get_submodule(target.path).bias = None
    targets = tuple(replace(t, bias=t.bias and t.role != role) for t in backbone.spec.targets)
    return Backbone(net, replace(backbone.spec, targets=targets))


def test_all_modules_of_one_width_share_one_pool():
    spec = backbones.describe("vit_base_patch16_224")

    assert shared_names(CloraOptions(), spec) == ["D_768", "U_768"]
    assert shared_names(CloraOptions(pools=2), spec) == [
        "D_attention_768",
        "D_mlp_768",
        "U_attention_768",
        "U_mlp_768",
    ]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("swin_tiny_patch4_window7_224", ["D_192", "D_384", "D_768", "D_96"]),
        ("convnext_tiny", ["D_192", "D_384", "D_768", "D_96"]),
        ("mixer_b16_224", ["D_196", "D_768"]),
    ],
)
def test_every_width_has_a_pool_of_its_own(name, wanted):
    found = shared_names(CloraOptions(), backbones.describe(name))

    assert found[: len(wanted)] == wanted


def test_spaces_are_trained_and_stored_once(tiny, make_adapter):
    module = CLORA.module(CloraOptions(), tiny.spec, dropout=0.0)
    written = artifact.write(make_adapter(tiny, "clora"))

    found = artifact.read(written)

    assert sum(p is module.shared.D_48 for p in module.parameters()) == 1
    assert [n for n in found.factors if ".D_" in n] == ["shared.D_48"]
    assert sum(t.size for t in found.factors.values()) == CLORA.count(CloraOptions(), tiny.spec)


def test_spaces_start_apart_from_each_other(tiny):
    module = CLORA.module(CloraOptions(), tiny.spec, dropout=0.0)

    D, U = (factor.detach() for factor in module.shared.of("48"))

    assert len({float(space.sum()) for space in D}) == len({float(s.sum()) for s in U}) == 8
    assert float(D.abs().max()) <= (6 / (48 + 8)) ** 0.5


def test_a_change_is_the_sum_over_spaces_and_the_bias_is_not_scaled(tiny):
    options = CloraOptions(spaces=3, rank=2, scale=10.0)
    module = CLORA.module(options, tiny.spec, dropout=0.0).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    D, U = module.shared.of("48")
    path = "blocks.1.mlp.fc1"
    site = module.by_path()[path]

    form = CLORA.lower(options, tiny.spec, module.export())[path]

    delta = sum(D[h] @ site.Q[h] @ U[h] for h in range(3))
    torch.testing.assert_close(dense(form.P[0], 48, 48), 10.0 * delta.mT)
    torch.testing.assert_close(form.c, site.e)


def test_a_target_without_bias_is_not_shifted(tiny):
    bare = without_bias(tiny, "qkv")
    module = CLORA.module(CloraOptions(), bare.spec, dropout=0.0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    form = CLORA.lower(CloraOptions(), bare.spec, module.export())
    image = torch.randn(1, 3, 32, 32)

    folded = backbones.features(plain.merged(bare.net, form), image)

    assert [n for n in module.export() if n.endswith(".e")] == [
        "blocks.0.mlp.fc1.e",
        "blocks.1.mlp.fc1.e",
    ]
    assert CLORA.count(CloraOptions(), bare.spec) == sum(p.numel() for p in module.parameters())
    trained = backbones.features(plain.sited(bare.net, module), image)
    torch.testing.assert_close(folded, trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pools", [1, 2])
def test_spaces_lie_in_a_row_once(tiny, make_adapter, pools):
    adapter = make_adapter(tiny, "clora", pools=pools, effect=False)

    prepared = Engine(tiny).prepare(adapter)

    ops = [op for _, form in prepared.layout.targets for op in form.P]
    assert len(ops) == len({op.core for op in ops}) == 4
    assert len({op.down for op in ops}) == len({op.up for op in ops}) == pools
    cores, biases = 4 * 64 * 64, 4 * 64  # a bias of 48 numbers takes 64: factors are aligned
    assert prepared.layout.size == pools * 2 * 64 * 48 + cores + biases


def test_the_engine_answers_as_the_plain_path_does(tiny, make_adapter):
    engine = Engine(tiny)
    adapters = [make_adapter(tiny, "clora", seed=seed, effect=False) for seed in range(3)]
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)

    answers = engine.run(pictures, [engine.prepare(a) for a in adapters])

    for picture, adapter, answer in zip(pictures, adapters, answers, strict=True):
        alone = plain.logits(tiny, adapter, picture[None])[0]
        np.testing.assert_allclose(answer, alone, atol=1e-4, rtol=1e-4)
