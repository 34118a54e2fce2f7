"""The grouped kernel gives what torch gives, and is used only where it is right and faster."""

import functools
import sys

import pytest
import torch

from serving.engine import grouped
from serving.engine.bank_lane import BankLane, Part
from serving.engine.engine import Engine
from serving.engine.grouped import BUCKETS, add_grouped, launch, pays, rank_bucket, twin, worthwhile
from serving.engine.layout import LowRankAt, Place

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    ],
)


@pytest.fixture
def device(request, monkeypatch):
    """On the CPU, triton's interpreter runs the kernel; it looks for its switch when imported."""
    if request.param == "cpu":
        pytest.importorskip("triton")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    sys.modules.pop("serving.engine.grouped_kernel", None)
    grouped.kernel.cache_clear()
    yield torch.device(request.param)
    sys.modules.pop("serving.engine.grouped_kernel", None)
    grouped.kernel.cache_clear()


def laid(rank, inputs, outputs):
    """Places of two factors in a row that begins with something else."""
    down = Place(32, (rank, inputs))
    start = -(-(32 + rank * inputs) // 32) * 32
    up = Place(start, (outputs, rank))
    return down, up, -(-(start + rank * outputs) // 32) * 32


HALF = {"cpu": torch.float16, "cuda": torch.bfloat16}  # the interpreter multiplies no bfloat16


@pytest.mark.parametrize("device", ["cpu", CUDA], indirect=True)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("rank", "inputs", "outputs", "tokens"), [(3, 48, 96, 17), (16, 64, 64, 64), (20, 80, 33, 5)]
)
def test_the_kernel_gives_what_torch_gives(device, exact, rank, inputs, outputs, tokens):
    dtype = torch.float32 if exact else HALF[device.type]
    down, up, size = laid(rank, inputs, outputs)
    rows = (torch.randn(4, size, device=device) / inputs**0.5).to(dtype)
    rows[0] = 0
    index = torch.tensor([2, 0, 3, 2, 1], device=device)
    x = torch.randn(5, tokens, inputs + 8, device=device).to(dtype)[..., 8:]
    y = torch.randn(5, tokens, outputs + 4, device=device).to(dtype)
    got, wanted = y.clone(), y.clone()

    launch(got[..., 4:], x, rows, index, down, up)
    twin(wanted[..., 4:], x, rows, index, down, up)

    assert torch.equal(got[..., :4], y[..., :4])
    assert torch.equal(got[1], y[1])  # the identity
    assert not torch.equal(got[0], y[0])
    torch.testing.assert_close(
        got, wanted, rtol=1e-5 if exact else 2e-2, atol=1e-5 if exact else 4e-2
    )


@pytest.mark.slow
@pytest.mark.parametrize("processor", [80, 90])
@pytest.mark.parametrize(("rank", "block"), [(16, 64), (64, 64), (128, 32)])
def test_the_kernel_compiles_for_gpus_that_are_not_here(
    processor, rank, block, monkeypatch, tmp_path
):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # unset, it warns
    monkeypatch.delitem(sys.modules, "serving.engine.grouped_kernel", raising=False)
    from triton import compile as build
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from serving.engine.grouped_kernel import grouped as kernel

    sizes = {"T": block, "R": rank, "K": block, "O": block}
    kinds = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(sizes, "constexpr")
    kinds |= dict.fromkeys(("x", "y", "rows"), "*bf16") | {"index": "*i64"}

    built = build(ASTSource(kernel, kinds, sizes), target=GPUTarget("cuda", processor, 32))
    monkeypatch.delitem(sys.modules, "serving.engine.grouped_kernel")

    assert "mma" in built.asm["ptx"]  # products are done by matrix units


def test_only_plain_factors_of_its_ranks_are_taken(monkeypatch):
    done = []
    monkeypatch.setattr(grouped, "launch", lambda *args: done.append(args))
    down, up, size = laid(4, 8, 8)
    plain = LowRankAt(down, None, up, None, None)
    cored = LowRankAt(Place(0, (4, 8)), Place(0, (4, 4)), Place(0, (8, 4)), None, None)
    large = LowRankAt(Place(0, (129, 8)), None, Place(0, (8, 129)), None, None)
    shared = [LowRankAt(Place(9, (4, 8)), None, Place(n, (8, 4)), None, None) for n in (1, 2)]
    given = [plain, cored, large, *shared]
    x = y = torch.zeros(1, 1, 8)
    take = functools.partial(add_grouped, torch.zeros(2, size), torch.tensor([1]))

    assert list(take(frozenset({16}), y, x, given)) == [cored, large, *shared]
    assert len(done) == 1
    assert list(take(frozenset({32}), y, x, given)) == given
    assert list(take(frozenset({16}), y, y.expand(1, 8, 8).mT, given)) == given
    assert len(done) == 1


@pytest.mark.parametrize("device", ["cpu", CUDA], indirect=True)
def test_a_whole_network_answers_the_same_through_the_kernel(tiny, make_adapter, device):
    engine = Engine(tiny, "fp32", device.type, banked=True)
    placed = [
        engine.place(engine.prepare(make_adapter(tiny, m, seed=i, effect=False)))
        for i, m in enumerate(("lora", "lora"))
    ]
    bank = placed[0].at.bank
    index = torch.tensor([placed[0].at.index, 0, placed[1].at.index], device=device)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, device=device)
    mean, std = torch.zeros(3, 3, device=device), torch.ones(3, 3, device=device)
    part = Part(bank.layout, bank.rows, index)

    with torch.inference_mode():
        got, wanted = (
            BankLane(engine._net, list(engine._sizes), engine.dtype, ranks).features(
                images, mean, std, [part]
            )
            for ranks in (frozenset(BUCKETS), frozenset())
        )

    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


RIGHT = torch.tensor([1.0, 2.0, 3.0])


def right():
    return RIGHT.clone()


def other():
    return RIGHT * (1 + 1e-7)


def wrong():
    return RIGHT + 1


def nan():
    return RIGHT * float("nan")


def failing():
    raise RuntimeError("no such kernel")


@pytest.mark.parametrize(
    ("candidate", "took", "wanted"),
    [
        (other, 0.5, True),
        (other, 1.0, False),
        (other, 2.0, False),
        (wrong, 0.1, False),
        (nan, 0.1, False),
        (failing, 0.1, False),
    ],
)
def test_the_faster_is_chosen_and_never_a_wrong_one(candidate, took, wanted):
    seconds = {candidate: took, right: 1.0}

    assert pays(candidate, right, seconds.__getitem__, 1e-4) is wanted


def test_without_cuda_no_rank_is_worth_the_kernel():
    assert worthwhile(torch.device("cpu"), torch.float32, 48, 16, 8) == frozenset()


def test_ranks_are_rounded_up_to_what_the_kernel_multiplies():
    assert [rank_bucket(n) for n in (1, 16, 17, 64, 128, 129)] == [16, 16, 32, 64, 128, None]
