"""Bi-LoRA: what the law cannot see. Its bits, its gradient, and how it is kept."""

import numpy as np
import pytest
import torch

from adapters_store import artifact, plain
from adapters_store import backbone as backbones
from adapters_store.adapter import Adapter
from adapters_store.admission import admit
from adapters_store.errors import ArtifactInvalidError
from adapters_store.methods.bi_lora import (
    MEDIAN,
    BiLora,
    BiLoraOptions,
    pack,
    quantised,
    straight_through,
    unpack,
)
from adapters_store.methods.summary import summaries
from adapters_store.normal_form import dense, rank
from serving.engine.engine import Engine

BI = BiLora()
QKV = "blocks.0.attn.qkv"


def drawn(spec, options=None):
    """A float64 module with every trained number drawn at random."""
    module = BI.module(options or BiLoraOptions(), spec, dropout=0.0).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def by_hand(w):
    """ŵ of a matrix as the paper writes it."""
    level = (w - w.mean()) / (w.std() + 1e-5)
    return MEDIAN * level.sign() * w.std() + w.mean()


def test_the_code_is_the_median_of_each_half_of_the_normal_distribution():
    assert torch.special.ndtri(torch.tensor(0.75).double()) == pytest.approx(MEDIAN, abs=1e-12)
    assert quantised(torch.tensor([-2.0, -0.0, 0.0, 1e-9])).tolist() == pytest.approx(
        [-MEDIAN, -MEDIAN, -MEDIAN, MEDIAN]
    )


def test_backwards_the_code_is_the_identity():
    w = torch.randn(5, 4, requires_grad=True)
    slope = torch.randn(5, 4)

    straight_through(w).backward(slope)

    assert torch.equal(w.grad, slope)


def test_bits_lie_lowest_first_and_row_by_row():
    bits = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 1, 0]], dtype=torch.bool)

    packed = pack(bits)

    assert packed.tolist() == [0b11000001, 0b00000001]
    assert torch.equal(unpack(packed, torch.empty(2, 5)) > 0, bits)
    assert packed.tolist() == np.packbits(bits.numpy(), bitorder="little").tolist()


def test_the_change_is_the_product_of_the_quantised_matrices(tiny):
    options = BiLoraOptions(rank=5, scale=10.0)
    module = drawn(tiny.spec, options)
    site = module.by_path()[QKV]

    form = BI.lower(options, tiny.spec, module.export())[QKV]

    delta = sum(dense(op, 144, 48) for op in form.Q).reshape(3, 48, 48)
    for part, name in ((0, "q"), (2, "v")):
        A, B = site.get_parameter(f"A_{name}"), site.get_parameter(f"B_{name}")
        torch.testing.assert_close(delta[part], 10.0 * by_hand(B) @ by_hand(A))
        assert torch.linalg.matrix_rank(delta[part], rtol=1e-9) == 5
    assert not delta[1].any()
    assert rank(form) == 5


def test_a_fresh_adapter_is_near_the_identity(tiny):
    """As the paper's: entries of the quantised up are about 7e-4."""
    module = BI.module(BiLoraOptions(), tiny.spec, dropout=0.0).eval()
    x = torch.randn(1, 3, 32, 32)

    with torch.no_grad():
        moved = backbones.features(plain.sited(tiny.net, module), x) - tiny.features(x)
    up = module.by_path()[QKV].B_q.detach()

    assert 0 < float(moved.abs().max()) < 0.05
    assert float(up.abs().max()) <= 2e-3
    assert float(up.std()) == pytest.approx(0.88e-3, rel=0.1)  # of a normal cut at two


def test_what_is_stored_comes_back_bit_for_bit(tiny, make_adapter):
    """Quantising once more would move mean and std."""
    options = BiLoraOptions(rank=5, scale=0.1)
    adapter = make_adapter(tiny, "bi_lora", effect=False, rank=5, scale=0.1)
    stored = {n: torch.from_numpy(np.array(t)) for n, t in adapter.factors.items()}
    module = BI.module(options, tiny.spec, dropout=0.0).eval()

    module.load(stored)

    again = module.export()
    assert all(torch.equal(again[n], t) for n, t in stored.items())
    form = BI.lower(options, tiny.spec, stored)[QKV]
    held = module.by_path()[QKV]._quantised("B_v")
    assert torch.equal(held, form.Q[1].up)


def test_a_matrix_of_equal_numbers_survives(tiny):
    """Its std is zero, and its bits say nothing."""
    module = drawn(tiny.spec)
    with torch.no_grad():
        module.by_path()[QKV].A_q.fill_(0.5)
    stored = module.export()
    other = drawn(tiny.spec)

    other.load(stored)

    assert all(torch.equal(t, stored[n]) for n, t in other.export().items())
    down = BI.lower(BiLoraOptions(), tiny.spec, stored)[QKV].Q[0].down
    torch.testing.assert_close(down, torch.full_like(down, 0.5))


def test_an_artifact_takes_a_bit_a_number(tiny, make_adapter):
    spec = backbones.describe("vit_base_patch16_224")
    row = next(r for r in summaries(spec) if r["method"] == "bi_lora")
    written = artifact.read(artifact.write(make_adapter(tiny, "bi_lora")))

    assert row["artifact_bytes"] == 147_456 + 12 * 2 * 2 * 2 * 4
    assert row["macs_per_token"] == 98_304
    assert (row["parameters"], row["rank"]) == (1_179_648, 32)
    kinds = {n.rpartition(".")[2]: t.dtype for n, t in written.factors.items()}
    assert {n for n, dtype in kinds.items() if dtype == np.float32} == set(BI.exact)
    assert {n for n, dtype in kinds.items() if dtype == np.uint8} == set(BI.packed)


def test_bits_behind_the_last_number_and_negative_stds_are_refused(tiny, make_adapter):
    """One adapter has one text. 3·47 numbers leave three bits of the last byte."""
    odd = backbones.random(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, embed_dim=42, num_heads=3
    )
    adapter = make_adapter(odd, "bi_lora", rank=3)
    name = f"{QKV}.A_q"
    bits = adapter.tensors[name].copy()
    bits[-1] |= 0x80
    changed = {name: bits, f"{QKV}.B_v_std": np.array([-1.0], np.float32)}
    spoilt = Adapter(manifest=adapter.manifest, tensors={**adapter.tensors, **changed})

    admit(artifact.write(adapter), odd.spec)

    with pytest.raises(ArtifactInvalidError) as caught:
        admit(artifact.write(spoilt), odd.spec)
    assert caught.value.faults == (
        f"tensor '{name}' has bits behind its last number",
        f"tensor '{QKV}.B_v_std' is below zero",
    )


def test_the_engine_answers_as_the_plain_path_does(tiny, make_adapter):
    engine = Engine(tiny)
    adapters = [make_adapter(tiny, "bi_lora", seed=seed, effect=False) for seed in range(3)]
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)

    answers = engine.run(pictures, [engine.prepare(a) for a in adapters])

    for picture, adapter, answer in zip(pictures, adapters, answers, strict=True):
        alone = plain.logits(tiny, adapter, picture[None])[0]
        np.testing.assert_allclose(answer, alone, atol=1e-4, rtol=1e-4)
