"""The frozen network: named, built, digested, refused."""

import socket

import pytest
import torch
from safetensors.torch import save_file

from adapters_store import backbone as backbones
from adapters_store.errors import BackboneUnavailableError


def test_the_bundled_backbone_loads_without_a_network(nano):
    assert nano.spec.input_size == (64, 64)
    assert nano.spec.features == 192
    assert len(nano.spec.targets) == 24
    assert not any(p.requires_grad for p in nano.net.parameters())
    assert not nano.net.training


def test_the_digest_depends_on_values_alone(tiny, tmp_path):
    head = {"head.weight": torch.randn(7, 48), "head.bias": torch.randn(7)}
    save_file({**tiny.net.state_dict(), **head}, tmp_path / "with_head.safetensors")

    again = backbones.load(
        tiny.spec.ref.name, tmp_path / "with_head.safetensors", **tiny.spec.ref.kwargs
    )

    assert again.spec.ref == tiny.spec.ref


def test_half_precision_weights_are_another_backbone(tiny, tmp_path):
    halved = {k: v.half() for k, v in tiny.net.state_dict().items()}
    save_file(halved, tmp_path / "half.safetensors")

    again = backbones.load(
        tiny.spec.ref.name, tmp_path / "half.safetensors", **tiny.spec.ref.kwargs
    )

    assert again.spec.ref.digest != tiny.spec.ref.digest


def test_weights_that_do_not_fit_are_refused(tiny, tmp_path):
    state = tiny.net.state_dict()
    state.pop("norm.weight")
    save_file(state, tmp_path / "w.safetensors")

    with pytest.raises(BackboneUnavailableError, match=r"norm\.weight"):
        backbones.load(tiny.spec.ref.name, tmp_path / "w.safetensors", **tiny.spec.ref.kwargs)


def test_files_that_are_no_safetensors_are_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not weights")

    with pytest.raises(BackboneUnavailableError, match="not a readable"):
        backbones.load("deit_tiny_patch16_224", tmp_path / "w.safetensors")
    with pytest.raises(BackboneUnavailableError, match="no such file"):
        backbones.load("deit_tiny_patch16_224", tmp_path / "absent.safetensors")


def test_unknown_networks_and_families_are_refused():
    with pytest.raises(BackboneUnavailableError, match="timm cannot build"):
        backbones.describe("no_such_network")
    with pytest.raises(BackboneUnavailableError, match="no target map"):
        backbones.describe("resnet18")


def test_an_unreachable_hub_is_explained_at_once(monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nowhere)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(BackboneUnavailableError, match="--weights FILE"):
        backbones.load("deit_tiny_patch16_224")


def test_a_twin_shares_weights_and_not_modules(tiny):
    twin = tiny.twin()

    assert twin.blocks[0] is not tiny.net.blocks[0]
    for mine, theirs in zip(twin.parameters(), tiny.net.parameters(), strict=True):
        assert mine is theirs


def test_the_backbone_of_a_manifest_is_found_again(nano):
    assert backbones.for_manifest(nano.spec.ref).spec == nano.spec


def test_describing_needs_no_weights(tiny):
    spec = backbones.describe(tiny.spec.ref.name, **tiny.spec.ref.kwargs)

    assert spec.targets == tiny.spec.targets
    assert spec.ref.digest == "0" * 64
