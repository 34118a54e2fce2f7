"""The Triton kernel behind `serving.engine.grouped`, which alone imports it. Knows pointers.

A program is one sample and one tile of tokens: it makes their codes once, keeps them in registers,
and adds to all outputs. Factors lie in row index[sample] of a bank, as [rank, inputs] and
[outputs, rank]; row 0 adds nothing.
"""

# ruff: noqa: ANN001, ANN201, E741

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]


@triton.jit  # type: ignore[untyped-decorator]
def grouped(  # type: ignore[no-untyped-def]
    x,
    y,
    rows,
    index,
    tokens,
    inputs,
    outputs,
    rank,
    size,
    down,
    up,
    x_sample,
    x_token,
    y_sample,
    y_token,
    T: tl.constexpr,
    R: tl.constexpr,
    K: tl.constexpr,
    O: tl.constexpr,
):
    """y[b] += up · (down · x[b]), summed in float32; the code is rounded as torch rounds it."""
    sample = tl.program_id(0).to(tl.int64)
    row = tl.load(index + sample)
    if row != 0:
        factors = rows + row * size
        t = tl.program_id(1) * T + tl.arange(0, T)
        r = tl.arange(0, R)
        here = (t < tokens)[:, None]
        ranked = r < rank
        code = tl.full((T, R), 0.0, tl.float32)
        for start in range(0, inputs, K):
            k = start + tl.arange(0, K)
            a = tl.load(
                x + sample * x_sample + t[:, None] * x_token + k[None, :],
                mask=here & (k < inputs)[None, :],
                other=0.0,
            )
            b = tl.load(
                factors + down + r[None, :] * inputs + k[:, None],
                mask=ranked[None, :] & (k < inputs)[:, None],
                other=0.0,
            )
            code = tl.dot(a, b, acc=code, input_precision="ieee")
        small = code.to(rows.dtype.element_ty)
        for start in range(0, outputs, O):
            o = start + tl.arange(0, O)
            b = tl.load(
                factors + up + o[None, :] * rank + r[:, None],
                mask=(o < outputs)[None, :] & ranked[:, None],
                other=0.0,
            )
            where = y + sample * y_sample + t[:, None] * y_token + o[None, :]
            mask = here & (o < outputs)[None, :]
            total = tl.load(where, mask=mask, other=0.0).to(tl.float32)
            total = tl.dot(small, b, acc=total, input_precision="ieee")
            tl.store(where, total.to(y.dtype.element_ty), mask=mask)
