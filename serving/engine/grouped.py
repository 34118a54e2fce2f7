"""Low-rank products of many adapters in one kernel, factors read where the bank has them.

y[b] += up[index[b]] · (down[index[b]] · x[b]) for every sample b. The kernel is Triton's; torch
does the same with gathered factors, and is what runs wherever the kernel is not both right and
faster. Knows banks' tensors and layouts, no network.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from serving.engine.layout import LowRankAt, OperatorAt, Place, Span

log = logging.getLogger(__name__)

Ranks = frozenset[int]  # buckets of ranks
BUCKETS: Final = (16, 32, 64, 128)  # products of matrix units are at least 16 wide
_RUNS: Final = 10
_WORTH: Final = 0.95  # the kernel must take less than this of torch's time
_TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def rank_bucket(rank: int) -> int | None:
    """What the kernel rounds a rank up to; None beyond what it takes."""
    return next((size for size in BUCKETS if rank <= size), None)


def add_grouped(
    rows: Tensor,
    index: Tensor,
    ranks: Ranks,
    out: Tensor,
    x: Tensor,
    operators: Sequence[OperatorAt],
) -> Sequence[OperatorAt]:
    """Do by the kernel what it is meant for, and give back the other operators.

    Args:
        rows: of a bank, [capacity, L].
        index: int64 [B].
        ranks: buckets that the kernel is used for.
        out: tokens [B, N, ·] that are added to.
        x: tokens [B, N, ·].
        operators: of one target.
    """
    if out.stride(-1) != 1 or x.stride(-1) != 1:
        return operators
    rest = []
    for op in operators:
        if _is_meant(op, operators, ranks):
            assert isinstance(op, LowRankAt)
            launch(_cut(out, op.rows), _cut(x, op.cols), rows, index, op.down, op.up)
        else:
            rest.append(op)
    return rest


def _is_meant(op: OperatorAt, operators: Sequence[OperatorAt], ranks: Ranks) -> bool:
    """Plain factors that no other operator shares: torch computes shared products once."""
    return (
        isinstance(op, LowRankAt)
        and op.core is None
        and rank_bucket(op.down.shape[0]) in ranks
        and sum(op.down == other.down or op.up == other.up for other in operators) == 1
    )


def launch(out: Tensor, x: Tensor, rows: Tensor, index: Tensor, down: Place, up: Place) -> None:
    """out[b] += up · down · x[b] with factors of row index[b]; see `add_grouped`."""
    samples, tokens, inputs = x.shape
    rank, outputs = down.shape[0], up.shape[0]
    tile = rank_bucket(rank)
    assert tile is not None
    block = 64 if tile <= 64 else 32  # tokens, inputs and outputs at a time: what registers hold
    kernel()[(samples, -(-tokens // block))](
        x,
        out,
        rows,
        index,
        tokens,
        inputs,
        outputs,
        rank,
        rows.stride(0),
        down.start,
        up.start,
        x.stride(0),
        x.stride(1),
        out.stride(0),
        out.stride(1),
        T=block,
        R=tile,
        K=block,
        O=block,
    )


@functools.cache
def kernel() -> Any:
    """The kernel, loaded when it is first asked for: triton is not on every system."""
    from serving.engine.grouped_kernel import grouped  # noqa: PLC0415

    return grouped


def twin(out: Tensor, x: Tensor, rows: Tensor, index: Tensor, down: Place, up: Place) -> None:
    """What `launch` does, by torch."""
    mine = rows.index_select(0, index)
    out.baddbmm_(torch.bmm(x, down.of(mine).mT), up.of(mine).mT)


def worthwhile(
    device: torch.device, dtype: torch.dtype, width: int, tokens: int, samples: int
) -> Ranks:
    """Ranks for which the kernel is right and faster on this device; none off CUDA."""
    if device.type != "cuda":
        return frozenset()
    return frozenset(
        rank for rank in BUCKETS if _kernel_pays(device, dtype, width, tokens, samples, rank)
    )


def _kernel_pays(
    device: torch.device, dtype: torch.dtype, width: int, tokens: int, samples: int, rank: int
) -> bool:
    down, up = Place(0, (rank, width)), Place(rank * width, (width, rank))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    rows = random(samples + 1, 2 * rank * width) / width**0.5
    index = torch.arange(1, samples + 1, device=device)
    x, y = random(samples, tokens, width), random(samples, tokens, width)

    def by(how: Callable[..., None]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            out = y.clone()
            how(out, x, rows, index, down, up)
            return out

        return run

    def seconds(run: Callable[[], Tensor]) -> float:
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(_RUNS):
            run()
        torch.cuda.synchronize(device)
        return time.perf_counter() - began

    return pays(by(launch), by(twin), seconds, _TOLERANCE[dtype])


def pays(
    candidate: Callable[[], Tensor],
    reference: Callable[[], Tensor],
    seconds: Callable[[Callable[[], Tensor]], float],
    tolerance: float,
) -> bool:
    """Whether the candidate gives what the reference gives, and in less time.

    Args:
        candidate: may fail; then it does not pay.
        reference: right by definition.
        seconds: measures one of them.
        tolerance: relative distance at which answers are the same.
    """
    try:
        wanted = reference().float()
        distance = (candidate().float() - wanted).norm() / wanted.norm()
        if not distance <= tolerance:  # NaN is no agreement
            log.warning("the grouped kernel is wrong on this device: %.3g relative", distance)
            return False
        seconds(candidate)  # warm
        ours = min(seconds(candidate) for _ in range(3))
        return ours < _WORTH * min(seconds(reference) for _ in range(3))
    except Exception:
        log.warning("the grouped kernel does not run on this device", exc_info=True)
        return False


def _cut(t: Tensor, span: Span) -> Tensor:
    return t if span is None else t[..., span[0] : span[1]]
