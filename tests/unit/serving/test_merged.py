"""Folding: weights of one task's own, which answer as its operators do."""

import numpy as np
import pytest
import torch

from adapters_store import plain
from adapters_store.backbone import features
from adapters_store.effect import golden_images, relative
from adapters_store.methods.table import METHODS
from adapters_store.pixels import normalise
from serving.engine.break_even import measure
from serving.engine.engine import Engine
from serving.engine.merged import disagreements, fold, weigh

CASES = [
    pytest.param(family, name, marks=() if family == "vit" else pytest.mark.slow)
    for name, method in METHODS.items()
    for family in sorted(method.families)
]
CPU = torch.device("cpu")


def answers(folded, pictures):
    """What a folded network says to pictures, computed by hand."""
    head = folded.head
    with torch.inference_mode():
        images = normalise(torch.from_numpy(pictures), head.mean, head.std)
        vectors = features(folded.net, images)
        return torch.nn.functional.linear(vectors, head.weight, head.bias).numpy()


def own_bytes(net, frozen):
    """Bytes of parameters that are not the frozen network's."""
    shared = {p.data_ptr() for p in frozen.parameters()}
    own = [p for p in net.parameters() if p.data_ptr() not in shared]
    return sum(p.numel() * p.element_size() for p in own)


@pytest.mark.parametrize(("family", "method"), CASES)
def test_every_method_folds_on_every_family_and_answers_as_the_plain_path(
    tinies, make_adapter, family, method
):
    backbone = tinies[family]
    adapter = make_adapter(backbone, method, seed=3, effect=False)
    pictures = golden_images(backbone.spec.input_size)

    folded = fold(backbone, backbone.net, adapter, torch.float32, CPU)

    alone = plain.logits(backbone, adapter, pictures)
    assert relative(answers(folded, pictures), alone) <= 1e-4
    assert folded.nbytes == weigh(backbone, adapter, torch.float32)
    assert folded.nbytes - folded.head.nbytes == own_bytes(folded.net, backbone.net)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_fold_in_bf16_is_of_the_fp32_weights_rounded_once(tiny, make_adapter, method):
    adapter = make_adapter(tiny, method, effect=False)
    engine = Engine(tiny, "bf16")
    before = {k: v.clone() for k, v in engine._net.state_dict().items()}

    folded = fold(tiny, engine._net, adapter, engine.dtype, engine.device)

    exact = dict(fold(tiny, tiny.net, adapter, torch.float32, CPU).net.named_parameters())
    for name, values in folded.net.named_parameters():
        assert torch.equal(values, exact[name].to(torch.bfloat16)), name
    assert all(torch.equal(v, before[k]) for k, v in engine._net.state_dict().items())
    assert folded.nbytes == weigh(tiny, adapter, torch.bfloat16)


def test_an_adapter_of_a_head_alone_owns_its_head_and_nothing_else(tiny, make_adapter):
    adapter = make_adapter(tiny, "linear", effect=False)

    folded = fold(tiny, tiny.net, adapter, torch.float32, CPU)

    assert own_bytes(folded.net, tiny.net) == 0
    assert folded.nbytes == folded.head.nbytes
    np.testing.assert_array_equal(folded.head.weight.numpy(), adapter.head_weight)


def test_own_copies_lie_in_memory_as_the_engine_laid_the_frozen_ones(tinies, make_adapter):
    backbone = tinies["convnext"]
    frozen = backbone.twin().to(memory_format=torch.channels_last)
    adapter = make_adapter(backbone, "ssf", effect=False)

    folded = fold(backbone, frozen, adapter, torch.float32, CPU)

    laid = dict(frozen.named_parameters())
    assert all(p.stride() == laid[name].stride() for name, p in folded.net.named_parameters())


def test_logits_agree_within_tolerance_and_in_their_label():
    mixed = np.array([[1.0, 2.0, 3.0], [9.0, 0.0, 0.0]], np.float32)
    swapped = np.array([[1.0, 2.501, 2.5], [9.0, 0.0, 0.0]], np.float32)
    tied = np.array([[3.0, 2.999, 0.0]], np.float32)

    assert disagreements(mixed * 1.0001, mixed, 1e-3) == ()
    assert "other logits" in disagreements(mixed * 1.01, mixed, 1e-3)[0]
    assert "another label" in disagreements(swapped, mixed, 0.1)[0]
    assert disagreements(tied[:, [1, 0, 2]], tied, 1e-3) == (), "rounding may order them either way"
    assert "NaN" in disagreements(mixed * np.nan, mixed, 1e-3)[0]
    assert disagreements(mixed, mixed * np.nan, 1e-3)


def test_a_measured_gain_covers_the_sizes_in_turn_and_stops_in_time(engine):
    gain = measure(engine, 4)
    short = measure(engine, 1024, limit_s=0.0)

    assert [size for size, _ in gain.mixed] == [size for size, _ in gain.merged] == [1, 2, 4]
    assert all(s >= 0 for _, s in (*gain.mixed, *gain.merged))
    assert len(short.mixed) == 1
