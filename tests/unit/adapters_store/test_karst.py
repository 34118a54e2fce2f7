"""KARST: what the law cannot see. Its ranks, its scale, where it may be, how it is kept."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from adapters_store import backbone as backbones
from adapters_store import plain
from adapters_store.backbone import Backbone
from adapters_store.methods.karst import Karst, KarstOptions
from adapters_store.normal_form import merge, rank
from serving.engine.engine import Engine

KARST = Karst()


def drawn(spec, options=None):
    """A float64 module with every trained number drawn at random."""
    module = KARST.module(options or KarstOptions(), spec, dropout=0.0).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def without_bias(backbone, role):
    """A backbone whose targets of one role have no bias."""
    net = copy.deepcopy(backbone.net)
    for target in backbone.spec.of_role(role):
        net.get_submodule(target.path).bias = None
    targets = tuple(replace(t, bias=t.bias and t.role != role) for t in backbone.spec.targets)
    return Backbone(net, replace(backbone.spec, targets=targets))


@pytest.fixture(scope="module")
def wide():
    """One block, wide enough that rank 128 is not full."""
    return backbones.random(
        "vit_base_patch16_224", img_size=32, depth=1, embed_dim=256, num_heads=4
    ).spec


@pytest.mark.parametrize("role", ["attn.proj", "mlp.fc1", "mlp.fc2", "attn.qkv"])
def test_a_change_has_rank_kernels_times_factor_times_rank(wide, role):
    module, path = drawn(wide), f"blocks.0.{role}"
    target = wide.by_path()[path]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith((".a1", ".a2", ".a3")):
                parameter.fill_(1.0)
    form = KARST.lower(KarstOptions(), wide, module.export())[path]
    weight = torch.randn(target.outputs, target.inputs).double()

    delta = merge(form, weight, torch.zeros(target.outputs).double())[0] - weight

    assert torch.linalg.matrix_rank(delta, rtol=1e-9) == 2 * 8 * 8
    assert rank(form) == 128


def test_a_re_scaled_target_has_left_its_weight_by_full_rank(wide):
    module = drawn(wide)
    form = KARST.lower(KarstOptions(), wide, module.export())["blocks.0.attn.proj"]
    weight = torch.randn(256, 256).double()

    delta = merge(form, weight, torch.zeros(256).double())[0] - weight

    assert torch.linalg.matrix_rank(delta, rtol=1e-9) == 256


def test_the_training_forward_is_the_sum_of_kronecker_products(wide):
    options = KarstOptions(multiplier=3.0)
    module = drawn(wide, options)
    site = module.by_path()["blocks.0.attn.qkv"]
    f = dict(site.named_parameters())
    x = torch.randn(2, 5, 256).double()

    delta = site(x, lambda x: x.new_zeros(*x.shape[:-1], 768))

    wanted = [
        sum(torch.kron(f["C"][i], f[a][i] @ f["B"][i]) for i in range(2))
        for a in ("A_q", "A_k", "A_v")
    ]
    torch.testing.assert_close(delta, x @ torch.cat(wanted).mT * 3.0**2 / 8)


def test_the_multiplier_counts_twice_and_is_folded_in():
    spec = backbones.describe()
    site = drawn(spec, KarstOptions(multiplier=4.0, rank=2)).by_path()["blocks.0.mlp.fc1"]

    assert site.scale == 8.0
    torch.testing.assert_close(site.factors()["C"], 8.0 * site.get_parameter("C"))


def test_swin_has_a_rank_for_every_stage():
    spec = backbones.describe("swin_base_patch4_window7_224")
    layout = KARST.layout(KarstOptions(), spec)

    assert KARST.count(KarstOptions(), spec) == 231_424 + 144
    assert [layout[f"layers.{s}.blocks.0.mlp.fc1.B"][1] for s in range(4)] == [2, 2, 4, 8]
    plainly = KARST.layout(KarstOptions(rank=8), spec)
    assert {plainly[f"layers.{s}.blocks.0.mlp.fc1.B"][1] for s in range(4)} == {8}


def test_a_mixer_may_have_any_number_of_tokens():
    spec = backbones.describe("mixer_b16_224", img_size=208)  # 169 tokens

    layout = KARST.layout(KarstOptions(), spec)

    assert all("mlp_channels" in name for name in layout)


@pytest.mark.parametrize("family", ["vit", "swin", "convnext", "mixer"])
def test_a_factor_that_does_not_divide_a_width_is_refused(tinies, family):
    with pytest.raises(ValueError, match=r"factor 7 does not divide the .* inputs of"):
        KARST.module(KarstOptions(factor=7), tinies[family].spec, dropout=0.0)


def test_ranks_must_fit_the_stages_and_stand_alone(tinies):
    with pytest.raises(ValueError, match="3 ranks for the 2 stages"):
        KARST.layout(KarstOptions(ranks=(1, 2, 3)), tinies["swin"].spec)
    with pytest.raises(ValueError, match="exclude each other"):
        KarstOptions(rank=2, ranks=(2,))


def test_a_target_without_bias_is_not_shifted(tiny):
    bare = without_bias(tiny, "proj")
    module = drawn(bare.spec).float()
    form = KARST.lower(KarstOptions(), bare.spec, module.export())
    image = torch.randn(1, 3, 32, 32)

    folded = backbones.features(plain.merged(bare.net, form), image)

    assert not [n for n in module.export() if n.endswith((".b1", ".b2"))]
    assert KARST.count(KarstOptions(), bare.spec) == sum(p.numel() for p in module.parameters())
    trained = backbones.features(plain.sited(bare.net, module), image)
    torch.testing.assert_close(folded, trained, rtol=1e-3, atol=1e-3)


def test_scalar_shifts_behind_a_target_never_show(tinies):
    """LayerNorm, which alone reads the residual stream, takes them off: b2 and b3 are counted,
    trained and stored as the released code has them, and do nothing."""
    tiny = tinies["vit"]
    module = drawn(tiny.spec).float()
    image = torch.randn(1, 3, *tiny.spec.input_size)
    before = backbones.features(plain.sited(tiny.net, module), image)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith((".b2", ".b3")):
                parameter.add_(1.0)

    after = backbones.features(plain.sited(tiny.net, module), image)

    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


def test_scales_and_shifts_keep_float32(tiny, make_adapter):
    adapter = make_adapter(tiny, "karst", effect=False)

    kinds = {n.rpartition(".")[2]: t.dtype for n, t in adapter.factors.items()}

    assert {n for n, dtype in kinds.items() if dtype == np.float32} == set(KARST.exact)
    assert kinds["C"] == np.float16


def test_q_k_and_v_share_a_mix_and_a_down_in_the_row(tiny, make_adapter):
    adapter = make_adapter(tiny, "karst", effect=False)
    prepared = Engine(tiny).prepare(adapter)
    form = dict(prepared.layout.targets)["blocks.0.attn.qkv"]

    assert len({op.down for op in form.Q}) == len({op.mix for op in form.Q}) == 1
    assert len({op.up for op in form.Q}) == 3


@pytest.mark.parametrize("rescale", ["scalar", "channel"])
def test_the_engine_answers_as_the_plain_path_does(tiny, make_adapter, rescale):
    engine = Engine(tiny)
    adapters = [
        make_adapter(tiny, "karst", seed=s, effect=False, rescale=rescale) for s in range(3)
    ]
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)

    answers = engine.run(pictures, [engine.prepare(a) for a in adapters])

    for picture, adapter, answer in zip(pictures, adapters, answers, strict=True):
        alone = plain.logits(tiny, adapter, picture[None])[0]
        np.testing.assert_allclose(answer, alone, atol=1e-4, rtol=1e-4)
