"""RepAdapter and ARC: what the law cannot see. Who shares what, and what is bound to what."""

import numpy as np
import pytest
import torch

from adapters_store import artifact, plain
from adapters_store import backbone as backbones
from adapters_store.errors import ArtifactInvalidError
from adapters_store.methods.arc import Arc, ArcOptions
from adapters_store.methods.repadapter import RepAdapter, RepAdapterOptions
from adapters_store.methods.table import parse_options
from adapters_store.normal_form import dense, rank
from serving.engine.engine import Engine

REP, ARC = RepAdapter(), Arc()
QKV, FC1 = "blocks.1.attn.qkv", "blocks.1.mlp.fc1"


def drawn(method, options, spec):
    """A float64 module with every trained number drawn at random."""
    module = method.module(options, spec, dropout=0.0).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


@pytest.fixture(scope="module")
def unbiased():
    """A ViT whose qkv has no bias."""
    return backbones.random(
        "vit_base_patch16_rpn_224", img_size=32, depth=2, embed_dim=48, num_heads=3
    )


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_group_of_the_code_writes_its_own_outputs(tiny, groups):
    options = RepAdapterOptions(groups=groups, scale=5.0)
    module = drawn(REP, options, tiny.spec)
    site = module.by_path()[QKV]
    part, own = 48 // groups, 8 // groups

    (op,) = REP.lower(options, tiny.spec, module.export())[QKV].P

    for i in range(groups):
        rows, code = slice(i * part, (i + 1) * part), slice(i * own, (i + 1) * own)
        wanted = 5.0 * site.W_B[rows] @ site.W_A[code]
        torch.testing.assert_close(dense(op, 48, 48)[rows], wanted)


def test_the_shift_is_what_the_biases_give_scaled_once(tiny):
    options = RepAdapterOptions(groups=1, scale=5.0)
    module = drawn(REP, options, tiny.spec)
    site = module.by_path()[FC1]

    form = REP.lower(options, tiny.spec, module.export())[FC1]

    torch.testing.assert_close(form.c, 5.0 * (site.W_B @ site.b_A + site.b_B))


def test_biases_of_the_adapter_are_kept_in_float32(tiny, make_adapter):
    adapter = make_adapter(tiny, "repadapter", effect=False)

    kinds = {n.rpartition(".")[2]: t.dtype for n, t in adapter.factors.items()}

    assert kinds == {"W_A": np.float16, "W_B": np.float16, "b_A": np.float32, "b_B": np.float32}


def test_groups_must_divide_the_code_and_the_width(tiny):
    with pytest.raises(ArtifactInvalidError, match="3 groups do not divide a code of 8"):
        parse_options("repadapter", {"groups": 3})
    with pytest.raises(ValueError, match="5 groups do not divide the 48 inputs of"):
        REP.layout(RepAdapterOptions(hidden=5, groups=5), tiny.spec)


@pytest.mark.parametrize(
    ("method", "options", "terms"),
    [(REP, RepAdapterOptions(), {"b_A", "b_B"}), (ARC, ArcOptions(), {"e"})],
    ids=["repadapter", "arc"],
)
def test_a_target_without_bias_is_not_shifted(unbiased, method, options, terms):
    spec = unbiased.spec
    module = drawn(method, options, spec).float()
    form = method.lower(options, spec, module.export())
    image = torch.randn(1, 3, *spec.input_size)

    folded = backbones.features(plain.merged(unbiased.net, form), image)

    shifted = {n.rpartition(".") for n in module.export() if n.rpartition(".")[2] in terms}
    assert {path for path, _, _ in shifted} == {f"blocks.{i}.mlp.fc1" for i in range(2)}
    assert {name for _, _, name in shifted} == terms == set(method.exact)
    assert method.count(options, spec) == sum(p.numel() for p in module.parameters())
    trained = backbones.features(plain.sited(unbiased.net, module), image)
    torch.testing.assert_close(folded, trained, rtol=1e-3, atol=1e-3)


def test_a_change_is_symmetric_and_of_the_rank_of_its_projection(tiny):
    options = ArcOptions(rank=5)
    module = drawn(ARC, options, tiny.spec)
    site, D = module.by_path()[FC1], module.shared.D_mlp

    form = ARC.lower(options, tiny.spec, module.export())[FC1]

    matrix = dense(form.P[0], 48, 48)
    torch.testing.assert_close(matrix, D @ torch.diag(site.c) @ D.mT)
    torch.testing.assert_close(matrix, matrix.mT)
    assert rank(form) == torch.linalg.matrix_rank(matrix, rtol=1e-9) == 5


def test_only_the_scales_before_the_mlp_start_apart_from_zero(tiny):
    factors = ARC.module(ArcOptions(), tiny.spec, dropout=0.0).export()

    assert not any(v.any() for n, v in factors.items() if n.endswith((".e", ".qkv.c")))
    drawn_scales = [v for n, v in factors.items() if n.endswith(".fc1.c")]
    assert len(drawn_scales) == 2
    for scales in drawn_scales:
        assert 0.2 < float(scales.abs().max()) <= (6 / 51) ** 0.5


def test_before_attention_alone_nothing_of_the_mlp_is_kept(tiny):
    layout = ARC.layout(ArcOptions(placement="attention"), tiny.spec)

    assert [n for n in layout if n.startswith("shared.")] == ["shared.D_att"]
    assert not [n for n in layout if ".mlp." in n]


def test_projections_are_trained_stored_and_laid_out_once(tiny, make_adapter):
    adapter = make_adapter(tiny, "arc")
    module = ARC.module(ArcOptions(), tiny.spec, dropout=0.0)
    prepared = Engine(tiny).prepare(adapter)

    found = artifact.read(artifact.write(adapter))

    assert sum(p is module.shared.D_att for p in module.parameters()) == 1
    assert sum(t.size for t in found.factors.values()) == ARC.count(ArcOptions(), tiny.spec)
    ops = [op for _, form in prepared.layout.targets for op in form.P]
    assert len({op.down for op in ops}) == len({op.up for op in ops}) == 2
    cores, biases = 4 * 2528, 4 * 64  # 2500 and 48 numbers, aligned
    assert prepared.layout.size == 4 * 48 * 50 + cores + biases


@pytest.mark.parametrize("method", ["repadapter", "arc"])
def test_the_engine_answers_as_the_plain_path_does(tiny, make_adapter, method):
    engine = Engine(tiny)
    adapters = [
        make_adapter(tiny, method, seed=s, effect=False, placement=p)
        for s, p in enumerate(("both", "both", "attention"))
    ]
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)

    answers = engine.run(pictures, [engine.prepare(a) for a in adapters])

    for picture, adapter, answer in zip(pictures, adapters, answers, strict=True):
        alone = plain.logits(tiny, adapter, picture[None])[0]
        np.testing.assert_allclose(answer, alone, atol=1e-4, rtol=1e-4)
