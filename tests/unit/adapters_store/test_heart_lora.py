"""Heart-LoRA: what the law cannot see. Which heads are on, where that is written, what is wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from adapters_store import artifact, plain
from adapters_store import backbone as backbones
from adapters_store.adapter import Adapter
from adapters_store.admission import admit
from adapters_store.errors import ArtifactInvalidError, MismatchError
from adapters_store.methods.heads import groups
from adapters_store.methods.heart_lora import HeartLora, HeartLoraOptions, kept
from adapters_store.methods.table import METHODS, parse_options
from adapters_store.normal_form import dense, rank
from serving.engine.engine import Engine

HEART = HeartLora()
QKV = "blocks.0.attn.qkv"


@pytest.fixture(scope="module")
def wide():
    """Two blocks of four heads of 32."""
    return backbones.random(
        "vit_base_patch16_224", img_size=32, depth=2, embed_dim=128, num_heads=4
    )


def drawn(spec, options):
    """A float64 module with every trained number drawn at random."""
    module = HEART.module(options, spec, dropout=0.0).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def only(module, heads):
    """Leave these heads on, everywhere."""
    for site in module.by_path().values():
        site.active.on.zero_()
        site.active.on[list(heads)] = True


def relisted(adapter, name, heads):
    """The adapter with another list of heads, sealed as it is."""
    tensors = {**adapter.tensors, name: np.array(heads, np.uint8)}
    return artifact.write(Adapter(manifest=adapter.manifest, tensors=tensors))


def test_only_active_heads_change_and_k_never_does(wide):
    options = HeartLoraOptions(heads_off=2)
    module = drawn(wide.spec, options)
    only(module, (1, 3))
    site = module.by_path()[QKV]

    form = HEART.lower(options, wide.spec, module.export())[QKV]

    delta = sum(dense(op, 384, 128) for op in form.Q)
    heads = delta.reshape(3, 4, 32, 128)
    assert not heads[1].any()
    assert not heads[:, (0, 2)].any()
    change = (site.B_q @ site.A_q).reshape(4, 32, 128)
    torch.testing.assert_close(heads[0, (1, 3), :], change[(1, 3), :])
    assert rank(form) == 8
    for part in (delta[:128], delta[256:]):
        assert torch.linalg.matrix_rank(part, rtol=1e-9) == 8


def test_the_scale_goes_into_b_and_rows_that_are_off_are_not_stored(wide):
    options = HeartLoraOptions(heads_off=3, scale=10.0)
    module = drawn(wide.spec, options)
    only(module, (2,))
    site = module.by_path()[QKV]

    stored = module.export()

    assert stored["shared.heads"].tolist() == [2]
    torch.testing.assert_close(stored[f"{QKV}.B_v"], 10.0 * site.B_v[64:96])
    assert torch.equal(stored[f"{QKV}.A_v"], site.A_v)
    assert HEART.count(options, wide.spec) == sum(
        t.numel() for t in stored.values() if t.dtype != torch.uint8
    )


def test_rows_that_are_off_are_zero_after_loading(wide):
    options = HeartLoraOptions(heads_off=3)
    module, other = (drawn(wide.spec, options) for _ in range(2))
    only(module, (2,))

    other.load(module.export())

    found = other.by_path()[QKV].B_q.reshape(4, 32, 8)
    torch.testing.assert_close(found[2], module.by_path()[QKV].B_q[64:96])
    assert not found[(0, 1, 3), :].any()


def test_a_list_is_stored_once_where_it_is_true_everywhere(tinies):
    def lists(family, **given):
        layout = HEART.layout(HeartLoraOptions(**given), tinies[family].spec)
        return {n: s for n, s in layout.items() if n.endswith(".heads")}

    assert lists("vit") == {"shared.heads": (2,)}
    assert lists("vit", choice="layer") == {
        "blocks.0.attn.qkv.heads": (2,),
        "blocks.1.attn.qkv.heads": (2,),
    }
    assert list(lists("mixer").values()) == [(21,)]
    assert list(lists("swin").values()) == [(1,), (1,), (3,), (3,)]


def test_heads_are_a_share_of_each_stage_on_swin():
    """Rounded, and never all."""
    spec = backbones.describe("swin_base_patch4_window7_224")

    def on(percent):
        options = HeartLoraOptions(heads_off_percent=percent)
        return sorted({(t.heads, kept(t, options)) for t in HEART.targets(options, spec)})

    assert on(None) == [(4, 3), (8, 5), (16, 11), (32, 21)]
    assert on(25) == [(4, 3), (8, 6), (16, 12), (32, 24)]
    assert on(12.5) == [(4, 3), (8, 7), (16, 14), (32, 28)]
    assert on(99) == [(4, 1), (8, 1), (16, 1), (32, 1)]


def test_the_default_share_is_four_of_twelve():
    spec = backbones.describe("vit_base_patch16_224")

    assert HEART.layout(HeartLoraOptions(), spec) == HEART.layout(
        HeartLoraOptions(heads_off=4), spec
    )


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mixer_b16_224", {(48, 64)}),
        ("convnext_tiny", {(6, 64), (12, 64), (24, 64), (48, 64)}),
    ],
)
def test_where_there_are_no_heads_runs_of_64_outputs_stand_for_them(name, wanted):
    spec = backbones.describe(name)

    targets = HEART.targets(HeartLoraOptions(), spec)

    assert {t.role for t in targets} == {"fc1"}
    assert {groups(t)[:2] for t in targets} == wanted


def test_options_that_no_network_could_follow_are_refused(tinies):
    with pytest.raises(ArtifactInvalidError, match="exclude each other"):
        parse_options("heart_lora", {"heads_off": 1, "heads_off_percent": 10})
    with pytest.raises(ValueError, match="3 heads off would leave none of 3 on"):
        HEART.layout(HeartLoraOptions(heads_off=3), tinies["vit"].spec)
    with pytest.raises(ValueError, match="layers have 2, 4 heads: give heads_off_percent"):
        HEART.layout(HeartLoraOptions(heads_off=1), tinies["swin"].spec)
    spec = tinies["mixer"].spec
    huge = replace(spec, targets=tuple(replace(t, outputs=64 * 257) for t in spec.targets))
    with pytest.raises(ValueError, match="a layer has 257 heads; a byte names one of 256"):
        HEART.layout(HeartLoraOptions(), huge)


@pytest.mark.parametrize(
    ("heads", "fault"),
    [
        ((1, 0), "'shared.heads' does not ascend"),
        ((1, 1), "'shared.heads' does not ascend"),
        ((1, 3), "'shared.heads' names head 3 of 3"),
        ((0, 255), "'shared.heads' names head 255 of 3"),
    ],
)
def test_a_list_that_is_no_list_of_heads_is_refused(tiny, make_adapter, heads, fault):
    data = relisted(make_adapter(tiny, "heart_lora"), "shared.heads", heads)

    with pytest.raises(ArtifactInvalidError, match=fault):
        admit(data, tiny.spec)


def test_a_list_of_another_length_does_not_fit(tiny, make_adapter):
    data = relisted(make_adapter(tiny, "heart_lora"), "shared.heads", (0, 1, 2))

    with pytest.raises(MismatchError, match=r"'shared.heads' has shape \(3,\)"):
        admit(data, tiny.spec)


def test_layers_may_differ_only_where_each_has_its_choice(tinies, make_adapter):
    swin, vit = tinies["swin"], tinies["vit"]
    free = make_adapter(vit, "heart_lora", choice="layer")
    bound = make_adapter(swin, "heart_lora")

    admit(relisted(free, "blocks.1.attn.qkv.heads", (1, 2)), vit.spec)

    with pytest.raises(ArtifactInvalidError, match="but the choice is global"):
        admit(relisted(bound, "layers.1.blocks.1.attn.qkv.heads", (1, 2, 3)), swin.spec)


def test_adapters_with_other_heads_lie_alike_on_a_device(tiny, make_adapter):
    """So one batch takes them together; and each is answered as the plain path does."""
    engine = Engine(tiny)
    adapters = [
        artifact.read(relisted(make_adapter(tiny, "heart_lora", seed=i), "shared.heads", heads))
        for i, heads in enumerate([(0, 1), (0, 2), (1, 2)])
    ]
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)

    prepared = [engine.prepare(a) for a in adapters]

    assert len({id(p.layout) for p in prepared}) == 1
    assert {op.up.shape for _, form in prepared[0].layout.targets for op in form.Q} == {(48, 8)}
    answers = engine.run(pictures, prepared)
    for picture, adapter, answer in zip(pictures, adapters, answers, strict=True):
        alone = plain.logits(tiny, adapter, picture[None])[0]
        np.testing.assert_allclose(answer, alone, atol=1e-4, rtol=1e-4)


def test_heads_that_were_never_chosen_are_not_stored(tiny):
    module = METHODS["heart_lora"].module(HeartLoraOptions(), tiny.spec, dropout=0.0)
    only(module, (0, 1, 2))

    with pytest.raises(AssertionError, match="chosen"):
        module.export()
