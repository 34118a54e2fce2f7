"""PEFT's adapters come in exactly, go out exactly, or are refused with every reason."""

import json
import pickle
import warnings

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from adapters_store import backbone as backbones
from adapters_store import peft as ours
from adapters_store import plain
from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone
from adapters_store.effect import golden_images
from adapters_store.errors import PeftRefusedError
from adapters_store.manifest import Preprocess
from adapters_store.pixels import normalise
from tests.conftest import FAMILIES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own
LABELS = 5


def trained(backbone: Backbone, folder, seed=0, **config):
    """A PEFT model on a timm model with random factors, saved in the folder."""
    torch.manual_seed(seed)
    ref = backbone.spec.ref
    net = timm.create_model(ref.name, **ref.kwargs, num_classes=LABELS)
    net.load_state_dict(backbone.net.state_dict(), strict=False)
    settings = {"r": 4, "target_modules": ["qkv"], "modules_to_save": ["head"], **config}
    model = peft.get_peft_model(net, peft.LoraConfig(**settings)).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1 if "lora" in name else 1.0)
    model.save_pretrained(folder)
    return model


def answers(net, preprocess: Preprocess, pictures) -> np.ndarray:
    """What any timm classifier answers."""
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    with torch.no_grad():
        return net(normalise(torch.from_numpy(pictures), mean, std)).numpy()


CONFIGS = {
    "plain": {},
    "every linear": {"target_modules": ["qkv", "proj", "fc1", "fc2"]},
    "scaled": {"lora_alpha": 32},
    "rank-stabilised": {"lora_alpha": 16, "use_rslora": True},
    "ranks by module": {
        "target_modules": ["qkv", "fc1"],
        "rank_pattern": {"blocks.0.attn.qkv": 2, "fc1": 7},
        "alpha_pattern": {"blocks.1.attn.qkv": 3},
    },
    "by pattern": {"target_modules": r".*\.0\..*(qkv|proj)"},
}


# `patch_embed.proj` is a convolution: PEFT's suffix rule finds it too.
def fitting(config):
    """The configuration, with the convolution left out."""
    return {"exclude_modules": r".*patch_embed.*", **config}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_an_imported_adapter_answers_as_peft_merged(tiny, tmp_path, config):
    """Against PEFT's own `merge_and_unload`, on the golden images."""
    model = trained(tiny, tmp_path, **fitting(config))

    adapter = ours.read(tmp_path, tiny.spec, task="digits")

    pictures = golden_images(tiny.spec.input_size)
    wanted = answers(model.merge_and_unload(), adapter.manifest.preprocess, pictures)
    got = plain.logits(tiny, adapter, pictures)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {}),
        ("lora", {"variant": "qkv", "scale": 3.0}),
        ("lora", {"variant": "qk"}),
        ("lora", {"variant": "each", "ranks": {"blocks.0.mlp.fc2": 2, "blocks.1.attn.qkv": 5}}),
    ],
)
def test_an_exported_adapter_answers_the_same_inside_peft(
    tiny, make_adapter, tmp_path, method, options
):
    """Loaded by PEFT's own code, merged or not."""
    adapter = make_adapter(tiny, method, labels=LABELS, effect=False, **options)

    ours.write(adapter, tiny.spec, tmp_path / "out")

    ref = tiny.spec.ref
    net = timm.create_model(ref.name, **ref.kwargs, num_classes=LABELS)
    net.load_state_dict(tiny.net.state_dict(), strict=False)
    model = peft.PeftModel.from_pretrained(net, tmp_path / "out").eval()
    pictures = golden_images(tiny.spec.input_size)
    wanted = plain.logits(tiny, adapter, pictures)
    preprocess = adapter.manifest.preprocess
    beside = answers(model, preprocess, pictures)
    merged = answers(model.merge_and_unload(), preprocess, pictures)
    assert np.abs(beside - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert np.abs(merged - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_what_was_exported_can_be_imported_again(tiny, make_adapter, tmp_path):
    """The second artifact answers as the first."""
    adapter = make_adapter(tiny, "lora", labels=LABELS, effect=False)
    ours.write(adapter, tiny.spec, tmp_path)

    again = ours.read(tmp_path, tiny.spec, task="digits", labels=adapter.manifest.labels)

    pictures = golden_images(tiny.spec.input_size)
    np.testing.assert_allclose(
        plain.logits(tiny, again, pictures), plain.logits(tiny, adapter, pictures), atol=1e-5
    )
    assert again.manifest.labels == adapter.manifest.labels


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "DoRA rescales each row"),
        ({"bias": "lora_only"}, "biases of the backbone were trained too"),
        ({"lora_bias": True}, "lora_B has a bias"),
        ({"init_lora_weights": "olora"}, "changes the backbone's weights before training"),
        ({"modules_to_save": None}, "there is no classifier"),
        ({"modules_to_save": ["head", "norm"]}, "norm.weight is neither a LoRA factor nor"),
        ({"target_modules": ["patch_embed.proj"]}, "patch_embed.proj is no target of"),
    ],
)
def test_what_cannot_be_lowered_is_refused_with_the_reason(tiny, tmp_path, config, reason):
    """Real folders, as PEFT writes them."""
    trained(tiny, tmp_path, **config)

    with pytest.raises(PeftRefusedError, match=reason):
        ours.read(tmp_path, tiny.spec, task="digits")


def test_every_reason_is_given_at_once(tiny, tmp_path):
    """Somebody who must train again wants to know all of it."""
    trained(tiny, tmp_path)
    config = json.loads((tmp_path / ours.CONFIG).read_text())
    config |= {"use_dora": True, "bias": "all", "some_new_trick": {"power": 2}, "lora_alpha": -1}
    (tmp_path / ours.CONFIG).write_text(json.dumps(config))

    with pytest.raises(PeftRefusedError) as caught:
        ours.read(tmp_path, tiny.spec, task="digits", labels=("a", "b"))

    assert len(caught.value.faults) == 5
    assert "some_new_trick" in str(caught.value)
    assert "2 labels for a classifier of 5 rows" in str(caught.value)


def test_a_pickle_is_not_opened(tiny, tmp_path):
    """Old adapters are `.bin` files."""
    trained(tiny, tmp_path)
    (tmp_path / ours.WEIGHTS).unlink()
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps({"a": 1}))

    with pytest.raises(PeftRefusedError, match="is a pickle, and is not opened"):
        ours.read(tmp_path, tiny.spec, task="digits")


def test_damaged_folders_are_refused(tiny, tmp_path):
    """Truncated weights, factors of other shapes, a rank that the configuration does not say."""
    trained(tiny, tmp_path)
    file = tmp_path / ours.WEIGHTS
    sound = load_file(file)
    key = "base_model.model.blocks.0.attn.qkv.lora_A.weight"

    save_file({**sound, key: sound[key][:, :-1].contiguous()}, file)
    with pytest.raises(PeftRefusedError, match="factors of shapes"):
        ours.read(tmp_path, tiny.spec, task="digits")

    save_file({**sound, key: torch.full_like(sound[key], torch.nan)}, file)
    with pytest.raises(PeftRefusedError, match="NaN"):
        ours.read(tmp_path, tiny.spec, task="digits")

    save_file({k: v for k, v in sound.items() if k != key}, file)
    with pytest.raises(PeftRefusedError, match="has lora_B alone"):
        ours.read(tmp_path, tiny.spec, task="digits")

    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(PeftRefusedError, match="is damaged"):
        ours.read(tmp_path, tiny.spec, task="digits")

    (tmp_path / ours.CONFIG).write_text('{"peft_type": "IA3"}')
    with pytest.raises(PeftRefusedError, match="only LORA can be lowered"):
        ours.read(tmp_path, tiny.spec, task="digits")


@pytest.mark.parametrize("method", ["alore", "linear"])
def test_methods_of_another_shape_are_not_exported(tiny, make_adapter, tmp_path, method):
    """They would need the backbone's weights, or layers that PEFT has no word for."""
    adapter: Adapter = make_adapter(tiny, method, labels=LABELS, effect=False)

    with pytest.raises(PeftRefusedError, match=r"in front of the layer|a head alone"):
        ours.write(adapter, tiny.spec, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_swin_comes_in_too(tinies, tmp_path):
    """Any backbone with a target map; its classifier is `head.fc`."""
    swin = tinies["swin"]
    model = trained(swin, tmp_path, modules_to_save=["head.fc"], target_modules=["qkv", "fc1"])

    adapter = ours.read(tmp_path, swin.spec, task="digits")

    assert FAMILIES["swin"][0] == adapter.manifest.backbone.name
    pictures = golden_images(swin.spec.input_size)
    wanted = answers(model.merge_and_unload(), adapter.manifest.preprocess, pictures)
    got = plain.logits(swin, adapter, pictures)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_the_bundled_backbone_is_a_timm_model_for_peft(nano, tmp_path):
    """The names agree: what a user trains on it can be imported."""
    trained(nano, tmp_path)

    adapter = ours.read(tmp_path, backbones.load().spec, task="digits")

    assert adapter.manifest.backbone == nano.spec.ref


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rank_pattern": {r"((([\w.]+)+)+)+x": 2}}, "too involved a pattern"),
        ({"rank_pattern": {"(": 2}}, "too involved a pattern"),
        ({"alpha_pattern": {"qkv": None}}, "something else than positive numbers"),
        ({"alpha_pattern": {"qkv": float("nan")}}, "something else than positive numbers"),
        ({"lora_alpha": 10**400}, "lora_alpha is no positive number"),
        ({"lora_alpha": float("inf")}, "lora_alpha is no positive number"),
        ({"rank_pattern": [1, 2]}, "rank_pattern is no table"),
        ({"r": "8"}, "r is no positive number"),
    ],
)
def test_a_hostile_configuration_is_refused_soon(tiny, tmp_path, change, reason):
    """A stranger's folder can neither hang the command nor make it fall over."""
    trained(tiny, tmp_path)
    config = json.loads((tmp_path / ours.CONFIG).read_text())
    (tmp_path / ours.CONFIG).write_text(json.dumps(config | change))

    with pytest.raises(PeftRefusedError, match=reason):
        ours.read(tmp_path, tiny.spec, task="digits")


def test_a_configuration_that_is_no_sane_json_is_refused(tiny, tmp_path):
    """Too deep, too long."""
    trained(tiny, tmp_path)
    for text in ("[" * 100_000 + "]" * 100_000, " " * 2**21):
        (tmp_path / ours.CONFIG).write_text(text)
        with pytest.raises(PeftRefusedError, match=r"is no JSON|has more than"):
            ours.read(tmp_path, tiny.spec, task="digits")
