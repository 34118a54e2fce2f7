"""LoRA's dropout is where each variant has it."""

import torch
from torch.nn import functional as F

from adapters_store.methods.lora import Lora, LoraOptions


def test_variant_qk_drops_other_inputs_for_q_than_for_k(tiny):
    """Each projection is an adapter of its own: with equal factors they differ while training."""
    options = LoraOptions(variant="qk")
    site = Lora().module(options, tiny.spec, dropout=0.5).by_path()["blocks.0.attn.qkv"]
    with torch.no_grad():
        site.B_q.normal_()
        site.B_k.copy_(site.B_q)
        site.A_k.copy_(site.A_q)
    x = torch.randn(2, 5, site.A_q.shape[1])
    width = site.B_q.shape[0]

    def frozen(tokens):
        return F.linear(tokens, torch.zeros(3 * width, tokens.shape[-1]))

    torch.testing.assert_close(*site.eval()(x, frozen).split(width, dim=-1)[:2])
    q, k, v = site.train()(x, frozen).split(width, dim=-1)
    assert not torch.allclose(q, k)
    assert not v.any()
