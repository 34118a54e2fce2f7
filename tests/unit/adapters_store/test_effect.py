"""The effect check sees what a digest cannot."""

import hashlib

import numpy as np
import pytest
import torch

from adapters_store.adapter import Adapter
from adapters_store.effect import Golden, golden_images
from adapters_store.errors import EffectFailedError


def test_the_golden_images_never_change():
    digest = hashlib.sha256(golden_images((64, 64)).tobytes()).hexdigest()

    assert digest == "6503e3e7fd6741d10a89709831410baa02f58e16ed22337dc6d814effd869786"


@pytest.mark.parametrize("method", ["alore", "lora", "linear"])
def test_an_adapter_passes_its_own_record(tiny, make_adapter, method):
    Golden(tiny).check(make_adapter(tiny, method))


def test_other_weights_are_noticed(tiny, make_adapter):
    adapter = make_adapter(tiny)
    tensors = {**adapter.tensors, "head.bias": adapter.head_bias + np.float32(1)}

    with pytest.raises(EffectFailedError, match="other logits"):
        Golden(tiny).check(Adapter(manifest=adapter.manifest, tensors=tensors))


def test_an_adapter_without_effect_is_noticed(tiny, make_adapter):
    adapter = make_adapter(tiny, effect=False)
    idle = Adapter(
        manifest=adapter.manifest,
        tensors={k: v * 0 if "B_" in k else v for k, v in adapter.tensors.items()},
    )
    recorded = idle.manifest.model_copy(update={"effect": Golden(tiny).record(idle)})

    with pytest.raises(EffectFailedError, match="change nothing"):
        Golden(tiny).check(Adapter(manifest=recorded, tensors=idle.tensors))


def test_a_missing_record_is_noticed(tiny, make_adapter):
    with pytest.raises(EffectFailedError, match="no effect record"):
        Golden(tiny).check(make_adapter(tiny, effect=False))


def test_bf16_is_allowed_more_than_fp32(tiny, make_adapter):
    adapter = make_adapter(tiny)
    off = np.asarray(adapter.manifest.effect.logits, np.float32) * np.float32(1.01)

    Golden(tiny).check(adapter, off, torch.bfloat16)
    with pytest.raises(EffectFailedError):
        Golden(tiny).check(adapter, off, torch.float32)


def test_a_record_that_is_out_of_all_bounds_is_no_pass(tiny, make_adapter):
    adapter = make_adapter(tiny)
    record = adapter.manifest.effect.model_copy(
        update={"logits": tuple((1e200,) * 5 for _ in range(4))}
    )
    forged = adapter.manifest.model_copy(update={"effect": record})

    with pytest.raises(EffectFailedError):
        Golden(tiny).check(Adapter(manifest=forged, tensors=adapter.tensors))
