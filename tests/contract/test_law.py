"""The law, over every method and every variant: three paths, one answer."""

import copy

import pytest
import torch

from adapters_store import plain
from adapters_store.backbone import Backbone, features
from adapters_store.methods.table import METHODS, parse_options
from adapters_store.normal_form import Kronecker, apply_operator, dense, expand, merge, rank

# Every method with its options that matter; each runs on every family that the method is offered
# on, unless a family is named.
VARIANTS = [
    ("alore", {}),
    ("alore", {"variant": "B"}),
    ("alore", {"experts": 2, "rank": 3, "scale": 10.0}),
    ("alore", {"rank": 8, "scale": 3.0}, "vit"),
    ("alore", {"placement": "attention"}, "vit"),
    ("alore", {"placement": "attention"}, "mixer"),
    ("lora", {}),
    ("lora", {"variant": "qkv", "scale": 5.0}),
    ("lora", {"variant": "qk", "rank": 3}),
    ("lora", {"variant": "each", "roles": ["qkv", "proj", "fc1", "fc2"]}),
    ("lora", {"variant": "each", "ranks": {"blocks.0.mlp.fc2": 2, "blocks.1.attn.proj": 5}}),
    ("karst", {}),
    ("karst", {"kernels": 3, "rank": 2, "factor": 4, "multiplier": 3.0}),
    ("karst", {"rescale": "channel"}),
    ("karst", {"ranks": [3]}, "vit"),
    ("karst", {"ranks": [2, 3]}, "swin"),
    ("clora", {}),
    ("clora", {"spaces": 3, "rank": 2, "scale": 10.0}),
    ("clora", {"pools": 2}),
    ("heart_lora", {}),
    ("heart_lora", {"choice": "layer", "rank": 3, "scale": 10.0}),
    ("heart_lora", {"heads_off_percent": 60.0}),
    ("heart_lora", {"heads_off": 0}, "vit"),
    ("heart_lora", {"heads_off": 2}, "vit"),
    ("heart_lora", {"heads_off": 31}, "mixer"),
    ("bi_lora", {}),
    ("bi_lora", {"rank": 5, "scale": 10.0}),
    ("repadapter", {}),
    ("repadapter", {"groups": 1, "hidden": 5, "scale": 10.0}),
    ("repadapter", {"groups": 4, "hidden": 12, "placement": "attention"}),
    ("fact_tt", {}),
    ("fact_tt", {"rank": 3, "scale": 10.0}),
    ("fact_tk", {}),
    ("fact_tk", {"rank": 3, "scale": 10.0}),
    ("ssf", {}),
    ("arc", {}),
    ("arc", {"rank": 5, "placement": "attention"}),
    ("bitfit", {}),
    ("linear", {}),
]


def cases():
    """(method, options, family); beyond ViT only a method's first variant is tried every time."""
    seen = set()
    for name, options, *only in VARIANTS:
        for family in only or sorted(METHODS[name].families):
            further = family != "vit" and (name, family) in seen
            seen.add((name, family))
            yield pytest.param(
                (name, options, family),
                id="-".join(map(str, (family, name, *options.values()))),
                marks=pytest.mark.slow if further else (),
            )


# Methods whose papers do not start from the identity, and why.
DRIFTING = {
    "ssf": "every γ is drawn around one and every β around zero",
    "arc": "the scales before the MLP are drawn (those before attention are zero)",
    "bi_lora": "a quantised up is never zero, though near it",
}
# Trained numbers that nothing can show: a shift of all channels alike, which LayerNorm takes off.
IDLE = {"karst": {"b2", "b3"}}


def scatter(module):
    """Draw every trained number at random."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)


@pytest.fixture(scope="module")
def doubles(tinies):
    """The small networks in float64; nobody alters them."""
    return {f: Backbone(copy.deepcopy(b.net).double(), b.spec) for f, b in tinies.items()}


@pytest.fixture(params=cases())
def case(request, doubles):
    """(method, options, float64 backbone, module with every trained number drawn at random)."""
    name, given, family = request.param
    backbone = doubles[family]
    options = parse_options(name, given)
    module = METHODS[name].module(options, backbone.spec, dropout=0.0).double().eval()
    scatter(module)
    return METHODS[name], options, backbone, module


def drawn(backbone, count):
    """Normalised images of the network's size."""
    return torch.randn(count, 3, *backbone.spec.input_size, dtype=torch.float64)


def test_every_method_of_the_table_is_tried():
    assert {name for name, *_ in VARIANTS} == set(METHODS)


def test_module_normal_form_and_merged_weights_give_the_same_features(case):
    method, options, backbone, module = case
    form = method.lower(options, backbone.spec, module.export())
    images = drawn(backbone, 2)

    with torch.no_grad():
        trained = features(plain.sited(backbone.net, module), images)
        unmerged = features(plain.formed(backbone.net, form), images)
        folded = features(plain.merged(backbone.net, form), images)
        bare = backbone.features(images)

    scale = max(1.0, float(unmerged.abs().max()))
    assert (trained - unmerged).abs().max() <= 1e-9 * scale
    assert (folded - unmerged).abs().max() <= 1e-9 * scale
    assert not form or (unmerged - bare).abs().max() > 1e-3


def test_an_exported_module_can_be_loaded_again(case):
    method, options, backbone, module = case
    stored = module.export()
    other = method.module(options, backbone.spec, dropout=0.0).double().eval()
    scatter(other)

    other.load(stored)

    for name, tensor in other.export().items():
        torch.testing.assert_close(tensor, stored[name], msg=name)


def test_the_count_is_the_formula_the_layout_and_the_module(case):
    method, options, backbone, module = case
    layout = method.layout(options, backbone.spec)

    formula = method.count(options, backbone.spec)

    if not method.packed:
        assert formula == sum(torch.Size(s).numel() for s in layout.values())
        assert formula == sum(p.numel() for p in module.parameters())
    stored = module.export()
    assert {k: tuple(v.shape) for k, v in stored.items()} == dict(layout)
    packed = {k for k in layout if k.rpartition(".")[2] in method.packed}
    assert {k for k, v in stored.items() if v.dtype == torch.uint8} == packed


def test_a_fresh_adapter_changes_nothing(case):
    method, options, backbone, _ = case
    if method.name in DRIFTING and getattr(options, "placement", "") != "attention":
        pytest.skip(DRIFTING[method.name])
    fresh = method.module(options, backbone.spec, dropout=0.0).double().eval()
    images = drawn(backbone, 2)

    with torch.no_grad():
        adapted = features(plain.sited(backbone.net, fresh), images)
        bare = backbone.features(images)

    torch.testing.assert_close(adapted, bare, rtol=0, atol=0)


@pytest.mark.slow
def test_every_factor_learns_within_two_steps(case):
    method, options, backbone, _ = case
    module = method.module(options, backbone.spec, dropout=0.0).double()
    net = plain.sited(backbone.net, module)
    images = drawn(backbone, 3)
    moved = {name: False for name, _ in module.named_parameters()}

    for _ in range(2):
        loss = features(net, images).square().sum()
        if not moved:
            break
        grads = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for (name, parameter), grad in zip(module.named_parameters(), grads, strict=True):
                moved[name] |= bool(grad.abs().max() > 0)
                parameter.sub_(1e-3 * grad)

    idle = {
        n
        for n, parameter in module.named_parameters()
        if n.rpartition(".")[2] in IDLE.get(method.name, ()) and parameter.numel() == 1
    }
    assert all(moved[n] for n in moved if n not in idle), [n for n, m in moved.items() if not m]


def test_structured_and_dense_kronecker_products_agree():
    op = Kronecker(
        mix=torch.randn(3, 2, 4).double(),
        down=torch.randn(3, 5, 6).double(),
        up=torch.randn(3, 7, 5).double(),
    )
    x = torch.randn(2, 9, 24).double()
    matrix = dense(op, 14, 24)

    torch.testing.assert_close(apply_operator(op, x, 14), x @ matrix.T)
    torch.testing.assert_close(dense(expand(op), 14, 24), matrix)


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("alore", {}, 64),
        ("alore", {"variant": "B"}, 16),
        ("lora", {"variant": "qkv"}, 8),
        ("clora", {}, 64),
        ("repadapter", {}, 8),
        ("fact_tt", {}, 16),
        ("fact_tk", {}, 32),
        ("arc", {}, 50),
    ],
)
def test_ranks_are_those_of_the_papers_and_are_attained(name, given, wanted):
    from adapters_store import backbone as backbones

    wide = backbones.random(
        "vit_base_patch16_224", img_size=32, depth=1, embed_dim=128, num_heads=2
    )
    options = parse_options(name, given)
    module = METHODS[name].module(options, wide.spec, dropout=0.0).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    form = METHODS[name].lower(options, wide.spec, module.export())
    linear, bias = torch.randn(384, 128).double(), torch.randn(384).double()
    target = form["blocks.0.attn.qkv"]

    delta = merge(target, linear, bias)[0] - linear

    assert rank(target) == wanted
    assert torch.linalg.matrix_rank(delta, rtol=1e-9) == wanted


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("alore", {}, 148_992),
        ("alore", {"placement": "attention"}, 74_496),
        ("alore", {"variant": "B"}, 150_528),
        ("lora", {}, 294_912),
        ("lora", {"variant": "qkv"}, 294_912),
        ("lora", {"variant": "qk"}, 294_912),
        ("karst", {}, 301_128),
        ("karst", {"kernels": 1}, 150_600),
        ("karst", {"kernels": 4, "rank": 4}, 307_272),
        ("karst", {"kernels": 8}, 1_204_296),
        ("karst", {"rescale": "channel"}, 356_352),
        ("clora", {}, 129_024),
        ("clora", {"spaces": 4}, 73_728),
        ("clora", {"pools": 2}, 26_112 * 8 + 18_432),
        ("heart_lora", {"heads_off": 0}, 294_912),
        ("heart_lora", {"heads_off": 2}, 270_336),
        ("heart_lora", {}, 245_760),
        ("heart_lora", {"heads_off": 4, "choice": "layer"}, 245_760),
        ("heart_lora", {"heads_off": 6}, 221_184),
        ("heart_lora", {"heads_off": 8}, 196_608),
        ("bi_lora", {}, 1_179_648),
        ("repadapter", {}, 239_808),
        ("fact_tt", {}, 61_440),
        ("fact_tt", {"rank": 4}, 8_448),
        ("fact_tk", {}, 86_528),
        ("fact_tk", {"rank": 8}, 13_952),
        ("ssf", {}, 205_824),
        ("arc", {}, 96_432),
        ("arc", {"placement": "attention"}, 48_216),
        ("bitfit", {}, 102_912),
        ("linear", {}, 0),
    ],
)
def test_counts_on_vit_base_are_the_published_integers(name, given, wanted):
    from adapters_store import backbone as backbones

    spec = backbones.describe("vit_base_patch16_224")

    assert METHODS[name].count(parse_options(name, given), spec) == wanted
