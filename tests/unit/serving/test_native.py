"""The native kernel computes what torch computes, on every family, for every method."""

import os
import shutil
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from adapters_store.backbone import random
from adapters_store.methods.table import METHODS, fits, parse_options
from serving.engine import native
from serving.engine.batch import Batch, Norm
from serving.engine.engine import Engine

KERNELS = [name for name in native.fitting() if (native._HERE / f"{name}.so").exists()]
pytestmark = pytest.mark.skipif(
    not KERNELS and not shutil.which("g++"), reason="no compiler built a native kernel here"
)
each_library = pytest.mark.parametrize("library", KERNELS)
TOLERANCE = {"fp32": 2e-5, "bf16": 4e-2}


@pytest.fixture(params=KERNELS or ["none"])
def kernel_name(request, monkeypatch):
    monkeypatch.setenv(native.SWITCH, request.param)
    return request.param


def kernel(library, dtype=torch.float32):
    with mock.patch.dict(os.environ, {native.SWITCH: library}):
        return native.load(dtype)


def test_a_machine_with_a_compiler_has_its_kernels():
    assert native.fitting() == KERNELS


def engines(backbone, dtype):
    """One engine by the kernel, and one by torch alone."""
    fast = Engine(backbone, dtype)
    before = os.environ[native.SWITCH]
    os.environ[native.SWITCH] = "0"
    try:
        return fast, Engine(backbone, dtype)
    finally:
        os.environ[native.SWITCH] = before


def pictures(backbone, count, seed=0):
    size = (count, 3, *backbone.spec.input_size)
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["vit", "swin", "convnext", "mixer"])
def test_every_method_answers_as_it_does_by_torch(tinies, make_adapter, kernel_name, family, dtype):
    if kernel_name != KERNELS[0] and family != "vit":
        pytest.skip("one family shows what another library computes")
    backbone = tinies[family]
    fast, plain = engines(backbone, dtype)
    assert fast.kernel is not None
    assert fast.kernel.name == kernel_name
    assert plain.kernel is None
    methods = [m for m in METHODS if fits(m, parse_options(m, {}), backbone.spec)]
    adapters = [make_adapter(backbone, m, seed=i, effect=False) for i, m in enumerate(methods)]
    images = pictures(backbone, len(adapters) + 1)

    got = fast.run(images, [fast.identity(), *map(fast.prepare, adapters)])
    wanted = plain.run(images, [plain.identity(), *map(plain.prepare, adapters)])

    for method, a, b in zip(["bare", *methods], got, wanted, strict=True):
        gap = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert gap <= TOLERANCE[dtype], method


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {"rank": 3, "variant": "qkv"}),
        ("lora", {"rank": 17, "variant": "each"}),
        ("alore", {"experts": 3, "rank": 5}),
        ("alore", {"experts": 2, "rank": 19}),
        ("repadapter", {"hidden": 6, "groups": 3}),
        ("fact_tt", {"rank": 5}),
        ("fact_tk", {"rank": 7}),
    ],
)
def test_odd_ranks_and_blocks_answer_as_by_torch(
    tinies, make_adapter, kernel_name, method, options
):
    backbone = tinies["vit"]
    options = {k: v for k, v in options.items() if k in METHODS[method].options.model_fields}
    for dtype in ("fp32", "bf16"):
        fast, plain = engines(backbone, dtype)
        adapter = make_adapter(backbone, method, effect=False, **options)
        images = pictures(backbone, 2)

        got = fast.run(images, [fast.prepare(adapter)] * 2)
        wanted = plain.run(images, [plain.prepare(adapter)] * 2)

        for a, b in zip(got, wanted, strict=True):
            assert np.linalg.norm(a - b) <= TOLERANCE[dtype] * np.linalg.norm(b)


@each_library
@settings(deadline=None, max_examples=30)
@given(
    samples=st.integers(1, 3),
    tokens=st.integers(1, 40),
    lanes=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
def test_a_norm_or_a_gelu_behind_a_residual_sum_is_what_torch_gives(
    library, samples, tokens, lanes, seed
):
    rng = torch.Generator().manual_seed(seed)
    width = 16 * lanes
    x, stream = (torch.randn(samples, tokens, width, generator=rng) * 3 for _ in range(2))
    weight, bias = (torch.randn(width, generator=rng) for _ in range(2))
    batch, out = Batch(kernel(library)), torch.empty_like(x)
    total = x + stream

    batch.run(x, stream=stream, out=out, between=native.NORM, norm=Norm(weight, bias, 1e-6))
    torch.testing.assert_close(stream, total, rtol=0, atol=0)
    torch.testing.assert_close(
        out, F.layer_norm(total, (width,), weight, bias, 1e-6), rtol=1e-4, atol=1e-4
    )

    batch.run(total, between=native.GELU)
    torch.testing.assert_close(total, F.gelu(stream), rtol=1e-5, atol=3e-6)


@each_library
def test_gelu_holds_at_the_ends_of_the_range(library):
    x = torch.tensor(
        [[[0.0, -0.0, 1e-30, -1e-30, 30.0, -30.0, 1e4, -1e4, 5.0, -5.0, 9.0, -9.0] + [1.0] * 4]]
    )
    wanted = F.gelu(x)

    Batch(kernel(library)).run(x, between=native.GELU)

    torch.testing.assert_close(x, wanted, rtol=1e-5, atol=3e-6)


@each_library
@settings(deadline=None, max_examples=30)
@given(
    samples=st.integers(1, 3),
    tokens=st.integers(1, 40),
    heads=st.integers(1, 3),
    lanes=st.integers(1, 4),
    asked=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_attention_is_what_torch_gives(library, samples, tokens, heads, lanes, asked, seed):
    rng = torch.Generator().manual_seed(seed)
    width, asked = 16 * lanes, min(asked, tokens)
    for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        qkv = 3 * torch.randn(samples, tokens, 3, heads, width, generator=rng).to(dtype)
        q, k, v = qkv.float().permute(2, 0, 3, 1, 4).unbind(0)
        wanted = F.scaled_dot_product_attention(q, k, v)[:, :, :asked].transpose(1, 2).flatten(2)

        got = Batch(kernel(library, dtype)).attention(qkv.flatten(2), heads, width**-0.5, asked)

        torch.testing.assert_close(got.float(), wanted, rtol=0, atol=bound)


@each_library
def test_attention_holds_where_one_score_outweighs_all_others(library):
    qkv = torch.zeros(1, 5, 3, 1, 16)
    qkv[0, :, :2] = 100.0 * torch.arange(5).view(5, 1, 1, 1)
    qkv[0, :, 2] = torch.arange(5.0).view(5, 1, 1)

    got = Batch(kernel(library)).attention(qkv.flatten(2), 1, 1.0, 5)

    torch.testing.assert_close(got[0, 1:], torch.full((4, 16), 4.0))
    torch.testing.assert_close(got[0, 0], torch.full((16,), 2.0))


@each_library
@pytest.mark.parametrize(("height", "width", "patch"), [(24, 40, 8), (24, 40, 16), (33, 20, 7)])
def test_pixels_become_patches_as_a_convolution_reads_them(library, height, width, patch):
    """Rows and columns that fill no patch are left out, as a convolution does."""
    images = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8)
    mean, std = torch.rand(3, 3), torch.rand(3, 3) + 0.2
    batch = Batch(kernel(library))
    batch.scale, batch.shift = 1 / (255 * std), -(mean / std)
    planes = (images / 255 - mean[:, :, None, None]) / std[:, :, None, None]

    torch.testing.assert_close(batch.pixels(images), planes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        batch.pixels(images, patch),
        F.unfold(planes, patch, stride=patch).mT,
        rtol=1e-5,
        atol=1e-5,
    )


def test_an_image_that_patches_do_not_fill_answers_as_by_torch(kernel_name):
    backbone = random("vit_tiny_patch16_224", img_size=40, depth=1)
    fast, plain = engines(backbone, "fp32")
    images = pictures(backbone, 3)

    got = fast.run(images, [fast.identity()] * 3)
    wanted = plain.run(images, [plain.identity()] * 3)

    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_switch_turns_the_kernel_off(monkeypatch):
    monkeypatch.setenv(native.SWITCH, "0")

    assert native.load(torch.float32) is None


def test_an_odd_type_has_no_kernel():
    assert native.load(torch.float64) is None


def test_an_unknown_word_in_the_switch_changes_nothing(monkeypatch, caplog):
    monkeypatch.setenv(native.SWITCH, "yes")

    assert native.load(torch.float32).name == KERNELS[0]
    assert "'yes'" in caplog.text
