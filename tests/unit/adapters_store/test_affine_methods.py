"""SSF and BitFit: what the law cannot see. Where terms are, and what merging leaves of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from adapters_store import admission, artifact, plain
from adapters_store import backbone as backbones
from adapters_store.errors import MismatchError
from adapters_store.methods.bitfit import BitFit, BitFitOptions
from adapters_store.methods.ssf import Ssf, SsfOptions
from adapters_store.methods.table import METHODS, offered, parse_options
from training.errors import RecipeInvalidError
from training.run import check_task

SSF, BITFIT = Ssf(), BitFit()
SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}
# ViTs as timm has them: by what they lack, or have elsewhere.
NETWORKS = {
    "plain": "vit_tiny_patch16_224",
    "pools in front of its norm": "vit_base_patch16_reg4_gap_256",
    "no bias in qkv": "vit_base_patch16_rpn_224",
    "no bias in the patch embedding": "vit_base_patch16_clip_224",
}
ALONE_ON_VIT = sorted(n for n, m in METHODS.items() if m.families == {"vit"})


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=list(NETWORKS))
def vit(request):
    """A small network of each kind, with the bias of a trained one."""
    return backbones.random(request.param, **SMALL)


def paths(layout, factor):
    return {n.rpartition(".")[0] for n in layout if n.endswith(f".{factor}")}


def test_every_operation_of_vit_base_has_a_scale_and_a_shift():
    spec = backbones.describe("vit_base_patch16_224")
    layout = SSF.layout(SsfOptions(), spec)

    assert paths(layout, "gamma") == paths(layout, "beta")
    assert {p for p in paths(layout, "gamma") if "blocks.11" in p} == {
        f"blocks.11.{p}" for p in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    }
    assert {p for p in paths(layout, "gamma") if "blocks" not in p} == {"patch_embed.proj", "norm"}
    assert paths(layout, "gamma") == paths(BITFIT.layout(BitFitOptions(), spec), "delta")


def test_the_last_norm_is_the_one_that_the_network_has():
    spec = backbones.describe("vit_base_patch16_reg4_gap_256")

    for layout, factor in (
        (SSF.layout(SsfOptions(), spec), "gamma"),
        (BITFIT.layout(BitFitOptions(), spec), "delta"),
    ):
        assert {"norm", "fc_norm"} & paths(layout, factor) == {"fc_norm"}
    assert SSF.count(SsfOptions(), spec) == 205_824


def test_what_has_no_bias_gets_no_shift():
    for network, place in (
        ("vit_base_patch16_rpn_224", "attn.qkv"),
        ("vit_base_patch16_clip_224", "patch_embed.proj"),
    ):
        spec = backbones.describe(network, **SMALL)
        layout = SSF.layout(SsfOptions(), spec)
        without = {p for p in paths(layout, "gamma") if p.endswith(place)}

        assert without
        assert paths(layout, "gamma") - paths(layout, "beta") == without
        assert without & paths(BITFIT.layout(BitFitOptions(), spec), "delta") == set()


def test_fresh_terms_lie_around_the_identity():
    spec = backbones.describe("vit_tiny_patch16_224")
    terms = SSF.module(SsfOptions(), spec, dropout=0.0).export()
    drawn = {
        n: torch.cat([v for k, v in terms.items() if k.endswith(n)]) for n in ("gamma", "beta")
    }

    for name, mean in (("gamma", 1.0), ("beta", 0.0)):
        assert abs(float(drawn[name].mean()) - mean) < 1e-3
        assert abs(float(drawn[name].std()) - 0.02) < 1e-3


@pytest.mark.parametrize("method", ["ssf", "bitfit"])
def test_every_term_is_kept_in_float32(tiny, make_adapter, method):
    read = artifact.read(artifact.write(make_adapter(tiny, method)))

    assert {t.dtype for t in read.factors.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("method", ALONE_ON_VIT)
def test_a_plain_timm_model_loads_the_merged_weights_strictly(vit, make_adapter, method):
    adapter = make_adapter(vit, method, labels=4, effect=False)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    model = timm.create_model(vit.spec.ref.name, **{**vit.spec.ref.kwargs, "num_classes": 4}).eval()

    model.load_state_dict(plain.merged_state(vit, adapter), strict=True)

    mean = torch.tensor(vit.spec.mean)[:, None, None]
    std = torch.tensor(vit.spec.std)[:, None, None]
    with torch.inference_mode():
        said = model((torch.from_numpy(pictures) / 255 - mean) / std).numpy()
    np.testing.assert_allclose(said, plain.logits(vit, adapter, pictures), atol=1e-3, rtol=1e-3)


def test_merged_biases_are_the_frozen_ones_and_the_difference(vit, make_adapter):
    adapter = make_adapter(vit, "bitfit", effect=False)
    frozen = vit.net.state_dict()

    merged = plain.merged_state(vit, adapter)

    for name, tensor in frozen.items():
        delta = adapter.tensors.get(f"{name.removesuffix('.bias')}.delta")
        if delta is None or not name.endswith(".bias"):
            assert torch.equal(merged[name], tensor)
        else:
            assert torch.equal(merged[name], tensor + torch.from_numpy(delta))


def test_a_scale_of_the_norm_scales_its_weight_and_its_bias(tiny, make_adapter):
    adapter = make_adapter(tiny, "ssf", effect=False)
    gamma, beta = (
        torch.from_numpy(adapter.tensors[f"blocks.1.norm2.{n}"]) for n in ("gamma", "beta")
    )
    norm = tiny.net.get_submodule("blocks.1.norm2")

    merged = plain.merged_state(tiny, adapter)

    torch.testing.assert_close(merged["blocks.1.norm2.weight"], gamma * norm.weight)
    torch.testing.assert_close(merged["blocks.1.norm2.bias"], gamma * norm.bias + beta)


@pytest.mark.parametrize("method", ["repadapter", "fact_tt", "fact_tk", "ssf", "arc", "bitfit"])
@pytest.mark.parametrize("family", ["swin", "convnext", "mixer"])
def test_other_families_are_refused_with_the_reason(tinies, make_adapter, method, family):
    """Before training, and when an artifact is admitted."""
    other = tinies[family]
    reason = f"method {method} is not offered on {family} backbones, only on vit"
    sound = make_adapter(other, "linear")
    manifest = sound.manifest.model_copy(update={"method": method, "options": {}})

    with pytest.raises(ValueError, match=reason):
        offered(method, other.spec)
    with pytest.raises(RecipeInvalidError, match=reason):
        check_task("digits", method, parse_options(method, {}), other.spec)
    with pytest.raises(MismatchError, match=reason):
        admission.admit(artifact.write(replace(sound, manifest=manifest)), other.spec)


@pytest.mark.parametrize("method", ALONE_ON_VIT)
def test_options_survive_the_manifest(method):
    given = parse_options(method, {}).model_dump(mode="json")

    assert parse_options(method, json.loads(json.dumps(given))).model_dump(mode="json") == given
