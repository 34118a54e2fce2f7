"""The normal form: what every method lowers to. Knows tensors, and no method and no network.

Columns, for one target with frozen W0 [out, in] and b0 [out]:

    x̂ = α ⊙ x + P x + c            y = γ ⊙ ((W0 + Q) x̂ + b0) + β
    W' = diag(γ) (W0 + Q) (diag(α) + P)      b' = γ ⊙ (b0 + (W0 + Q) c) + β

P [in, in] and Q [out, in] are sums of operators. Tensors here hold rows of tokens, [..., in], as
torch does; each operator is written as the matrix that acts on a column.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

Index = slice | Tensor  # which outputs or inputs of a target: a slice, or a sorted int64 vector


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """up · core · down, placed at `rows` and `cols` of the target."""

    down: Tensor  # [r, in] (in: as many as `cols` names)
    up: Tensor  # [out, s]
    core: Tensor | None = None  # [s, r]; None means the identity, then s = r
    rows: Index | None = None
    cols: Index | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kronecker:
    """Σ_k mix_k ⊗ (up_k · down_k), placed at `rows` and `cols`; applied without being built."""

    mix: Tensor  # [k, p, q]
    down: Tensor  # [k, r, in/q]
    up: Tensor  # [k, out/p, r]
    rows: Index | None = None
    cols: Index | None = None


Operator = LowRank | Kronecker


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearForm:
    """What an adapter does to one target. The default does nothing."""

    P: tuple[Operator, ...] = ()  # on the input, [in, in]
    Q: tuple[Operator, ...] = ()  # beside the weight, [out, in]
    alpha: Tensor | None = None  # scalar or [in]
    c: Tensor | None = None  # scalar or [in]
    gamma: Tensor | None = None  # scalar or [out]
    beta: Tensor | None = None  # scalar or [out]

    def to(self, dtype: torch.dtype) -> "LinearForm":
        """The same form with every floating tensor cast."""
        return LinearForm(
            P=tuple(_cast(op, dtype) for op in self.P),
            Q=tuple(_cast(op, dtype) for op in self.Q),
            **{n: t if t is None else t.to(dtype) for n, t in self._affine().items()},
        )

    def _affine(self) -> dict[str, Tensor | None]:
        return {"alpha": self.alpha, "c": self.c, "gamma": self.gamma, "beta": self.beta}


NormalForm = Mapping[str, LinearForm]  # by target path; affine terms alone on norms, convolutions
IDENTITY = LinearForm()


def apply_operator(op: Operator, x: Tensor, outputs: int) -> Tensor:
    """The operator times every token of x: [..., in] → [..., outputs].

    Outputs that `rows` does not name are zero.
    """
    x = x if op.cols is None else x[..., op.cols]
    if isinstance(op, Kronecker):
        y = _kronecker(op, x)
    else:
        z = F.linear(x, op.down)
        y = F.linear(z if op.core is None else F.linear(z, op.core), op.up)
    if op.rows is None:
        return y
    whole = y.new_zeros(*y.shape[:-1], outputs)
    whole[..., op.rows] = y
    return whole


def dense(op: Operator, outputs: int, inputs: int) -> Tensor:
    """The operator as the matrix it stands for, [outputs, inputs]. For merging and for tests."""
    if isinstance(op, Kronecker):
        terms = zip(op.mix, op.up, op.down, strict=True)
        small = torch.stack([torch.kron(mix, up @ down) for mix, up, down in terms]).sum(0)
    else:
        small = op.up @ op.down if op.core is None else op.up @ op.core @ op.down
    whole = small.new_zeros(outputs, inputs)
    rows = torch.arange(outputs)[slice(None) if op.rows is None else op.rows]
    cols = torch.arange(inputs)[slice(None) if op.cols is None else op.cols]
    whole[rows[:, None], cols[None, :]] = small
    return whole


def expand(op: Kronecker) -> LowRank:
    """The same operator as plain factors, fewer but larger products.

    Σ_k mix_k ⊗ (up_k down_k) = [mix_1 ⊗ up_1 …] · stack_k(I_q ⊗ down_k), with rank k·q·r.
    """
    k, p, q = op.mix.shape
    eye = torch.eye(q, dtype=op.mix.dtype, device=op.mix.device)
    down = eye[:, None, :, None] * op.down[:, None, :, None, :]  # [k, q, r, q, in/q]
    mix, up = op.mix.transpose(0, 1)[:, None, :, :, None], op.up.transpose(0, 1)[:, :, None, :]
    rank = k * q * op.down.shape[1]
    return LowRank(
        down=down.reshape(rank, -1),
        up=(mix * up).reshape(p * op.up.shape[1], rank),  # [p, out/p, k, q, r]
        rows=op.rows,
        cols=op.cols,
    )


def apply(form: LinearForm, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The adapted target on tokens x [..., in], nothing merged: the plain path's arithmetic."""
    outputs, inputs = weight.shape
    z = x if form.alpha is None else x * form.alpha
    for op in form.P:
        z = z + apply_operator(op, x, inputs)
    if form.c is not None:
        z = z + form.c
    y = F.linear(z, weight, bias)
    for op in form.Q:
        y = y + apply_operator(op, z, outputs)
    if form.gamma is not None:
        y = y * form.gamma
    return y if form.beta is None else y + form.beta


def merge(form: LinearForm, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(W', b') of the adapted target, always computed from the pristine weight.

    Raises:
        ValueError: the form shifts a target that has no bias to hold the shift.
    """
    outputs, inputs = weight.shape
    w = weight
    for op in form.Q:
        w = w + dense(op, outputs, inputs)
    shift = None if form.c is None else w @ form.c.expand(inputs)
    if form.alpha is not None or form.P:
        right = torch.eye(inputs, dtype=w.dtype, device=w.device)
        right = right if form.alpha is None else right * form.alpha
        for op in form.P:
            right = right + dense(op, inputs, inputs)
        w = w @ right
    if bias is None and (shift is not None or form.beta is not None):
        raise ValueError("a target without bias cannot hold a shift")
    b = bias if bias is None or shift is None else bias + shift
    if form.gamma is not None:
        gamma = form.gamma.expand(outputs)
        w = gamma[:, None] * w
        b = b if b is None else gamma * b
    return w, b if b is None or form.beta is None else b + form.beta


def macs(form: LinearForm) -> int:
    """Multiply-accumulates that the form adds to one token, unmerged; operators only.

    Operators that name the same `down` (and, of Kronecker products, the same `mix`) share its code;
    those that name the same `up` at the same rows add their codes before it.
    """
    total = 0
    for side in (form.P, form.Q):
        codes, ups = set[tuple[int, ...]](), set[tuple[int, str]]()
        for op in side:
            code, up = code_of(op), (id(op.up), str(op.rows))
            total += 0 if code in codes else _code_macs(op)
            total += op.core.numel() if isinstance(op, LowRank) and op.core is not None else 0
            total += 0 if up in ups else _up_macs(op)
            codes.add(code)
            ups.add(up)
    return total


def code_of(op: Operator) -> tuple[int, ...]:
    """Equal for operators, alive at one time, whose products up to `up` or `core` are the same."""
    mix = id(op.mix) if isinstance(op, Kronecker) else 0
    return id(op.down), mix, id(op.cols)


def rank(form: LinearForm) -> int:
    """The largest rank that P and Q can give one run of outputs; affine terms are not counted.

    Runs are what operators name by `rows`: q, k and v are three deltas, as the papers count.
    """
    return _side_rank(form.P) + _side_rank(form.Q)


def _side_rank(operators: tuple[Operator, ...]) -> int:
    runs: dict[str, list[Operator]] = {}
    for op in operators:
        runs.setdefault("" if op.rows is None else str(op.rows), []).append(op)
    everywhere = _run_rank(runs.pop("", []))
    return everywhere + max(map(_run_rank, runs.values()), default=0)


def _run_rank(operators: list[Operator]) -> int:
    """Operators that share a code, or an `up`, cannot exceed it together."""
    codes = {code_of(op): _code_rank(op) for op in operators}
    ups = {id(op.up): _up_rank(op) for op in operators}
    return min(sum(codes.values()), sum(ups.values()))


def _kronecker(op: Kronecker, x: Tensor) -> Tensor:
    blocks = x.reshape(*x.shape[:-1], op.mix.shape[2], -1)  # [..., q, in/q]
    z = torch.einsum("...qj,krj->...qkr", blocks, op.down)
    z = torch.einsum("...qkr,kpq->...pkr", z, op.mix)
    y = torch.einsum("...pkr,kor->...po", z, op.up)
    return y.flatten(-2)


def _code_macs(op: Operator) -> int:
    match op:
        case LowRank():
            return op.down.numel()
        case Kronecker():
            k, p, q = op.mix.shape
            return q * op.down.numel() + k * p * q * op.down.shape[1]


def _up_macs(op: Operator) -> int:
    match op:
        case LowRank():
            return op.up.numel()
        case Kronecker():
            return op.mix.shape[1] * op.up.numel()


def _code_rank(op: Operator) -> int:
    match op:
        case LowRank():
            return op.down.shape[0]
        case Kronecker():
            k, p, q = op.mix.shape
            return min(k * min(p, q) * op.down.shape[1], q * op.down.shape[2])


def _up_rank(op: Operator) -> int:
    match op:
        case LowRank():
            return op.up.shape[1]
        case Kronecker():
            return op.mix.shape[1] * op.up.shape[1]


def _cast(op: Operator, dtype: torch.dtype) -> Operator:
    match op:
        case LowRank():
            core = None if op.core is None else op.core.to(dtype)
            return replace(op, down=op.down.to(dtype), up=op.up.to(dtype), core=core)
        case Kronecker():
            return replace(op, mix=op.mix.to(dtype), down=op.down.to(dtype), up=op.up.to(dtype))
