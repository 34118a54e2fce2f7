"""The mixed lane: one forward of the frozen network for samples of any adapters.

Knows rows and layouts, not methods, slots or tasks. Samples of one layout lie side by side in the
batch (a segment), so an operator acts on a view of the activations and all its factors come from
one gathered block. Everything about the batch is decided once, in `plan`; the layers only run it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters_store.backbone import features, twin
from serving.engine.layout import (
    FormAt,
    KroneckerAt,
    Layout,
    LowRankAt,
    OperatorAt,
    Place,
    Span,
)

# Adds to out what some operators make of x, and gives back those that it left to others.
Direct = Callable[[Tensor, Tensor, Sequence[OperatorAt]], Sequence[OperatorAt]]


@dataclass(frozen=True, slots=True)
class Segment:
    """Samples start..stop of the batch, all of one layout."""

    start: int
    stop: int
    form: FormAt
    rows: Tensor  # [L] when all samples want one adapter, else [n, L]
    direct: Direct | None = None  # takes what it can; the rest is done here


@dataclass(slots=True)
class Plan:
    """What the running batch does at each target; empty between batches."""

    batch: int = 0
    at: dict[str, list[Segment]] = field(default_factory=dict)


class SlottedLinear(nn.Module):
    """A frozen target that looks up the running batch's plan."""

    def __init__(self, linear: nn.Linear, path: str, plan: Plan) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.path, self.plan = path, plan

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B·k, …, in] → [B·k, …, out], every sample through its own adapter."""
        segments = self.plan.at.get(self.path)
        if segments is None:
            return F.linear(x, self.weight, self.bias)
        tokens = x.reshape(self.plan.batch, -1, x.shape[-1])  # windows of one image stay together
        adapted = before(tokens, segments)
        y = F.linear(adapted, self.weight, self.bias)
        after(y, adapted, segments)
        return y.view(*x.shape[:-1], -1)


class SlottedAffine(nn.Module):
    """A frozen LayerNorm or convolution with each sample's own affine terms behind it."""

    def __init__(self, frozen: nn.Module, path: str, plan: Plan) -> None:
        super().__init__()
        self.frozen, self.path, self.plan = frozen, path, plan
        self.channels_first = isinstance(frozen, nn.Conv2d)

    def forward(self, x: Tensor) -> Tensor:
        """[B, …, C] or, behind a convolution, [B, C, …]; every sample through its own terms."""
        y: Tensor = self.frozen(x)
        segments = self.plan.at.get(self.path)
        if segments is None:
            return y
        y = y.clone() if y is x else y
        last = y.movedim(1, -1) if self.channels_first else y
        tokens = last.reshape(self.plan.batch, -1, last.shape[-1])  # one, behind pooling
        after(tokens, tokens, segments)
        return tokens.mT.view(y.shape) if self.channels_first else tokens.view(y.shape)


class MixedLane:
    """A twin of the network whose targets act per sample. One batch at a time, one thread."""

    def __init__(self, net: nn.Module, targets: Sequence[str]) -> None:
        """Replace every target; `net` itself stays as it is."""
        self.plan = Plan()
        self.net = twin(net)
        for path in targets:
            frozen = self.net.get_submodule(path)
            slotted = SlottedLinear if isinstance(frozen, nn.Linear) else SlottedAffine
            self.net.set_submodule(path, slotted(frozen, path, self.plan))  # type: ignore[arg-type]

    def features(self, images: Tensor, layouts: Sequence[Layout], rows: Sequence[Tensor]) -> Tensor:
        """[B, 3, H, W] → [B, features]; sample i uses row i of layout i.

        Equal layouts must be neighbours, and among them equal rows.
        """
        return self.planned(images, plan(layouts, rows))

    def planned(self, images: Tensor, at: dict[str, list[Segment]]) -> Tensor:
        """[B, 3, H, W] → [B, features], with segments that are decided already."""
        self.plan.batch, self.plan.at = len(images), at
        try:
            return features(self.net, images)
        finally:
            self.plan.at = {}


def plan(layouts: Sequence[Layout], rows: Sequence[Tensor]) -> dict[str, list[Segment]]:
    """Segments by target path; each layout's rows are gathered once for all its targets."""
    at: dict[str, list[Segment]] = {}
    start = 0
    while start < len(layouts):
        stop = start
        while stop < len(layouts) and layouts[stop] == layouts[start]:
            stop += 1
        if layouts[start].targets:
            mine = rows[start:stop]
            alone = all(row is mine[0] for row in mine)
            block = mine[0] if alone else torch.stack(list(mine))
            for path, form in layouts[start].targets:
                at.setdefault(path, []).append(Segment(start, stop, form, block))
        start = stop
    return at


def before(x: Tensor, segments: Sequence[Segment]) -> Tensor:
    """x̂ = α ⊙ x + P x + c for the samples that ask for it: [B, N, in]."""
    asked = [s for s in segments if s.form.P or s.form.alpha or s.form.c]
    if not asked:
        return x
    z = x.clone()  # the caller may still need x
    for s in asked:
        mine, source = z[s.start : s.stop], x[s.start : s.stop]
        if s.form.alpha is not None:
            mine.mul_(_per_channel(s.form.alpha.of(s.rows)))
        _operate(s, mine, source, s.form.P)
        if s.form.c is not None:
            mine.add_(_per_channel(s.form.c.of(s.rows)))
    return z


def after(y: Tensor, z: Tensor, segments: Sequence[Segment]) -> None:
    """Y ← γ ⊙ (y + Q x̂) + β in place, for the samples that ask for it."""
    for s in segments:
        mine, source = y[s.start : s.stop], z[s.start : s.stop]
        _operate(s, mine, source, s.form.Q)
        if s.form.gamma is not None:
            mine.mul_(_per_channel(s.form.gamma.of(s.rows)))
        if s.form.beta is not None:
            mine.add_(_per_channel(s.form.beta.of(s.rows)))


def _operate(s: Segment, out: Tensor, x: Tensor, operators: Sequence[OperatorAt]) -> None:
    rest = operators if s.direct is None else s.direct(out, x, operators)
    _add(out, x, rest, s.rows)


def _add(out: Tensor, x: Tensor, operators: Sequence[OperatorAt], rows: Tensor) -> None:
    """Out += Σ op · x for tokens [n, N, ·]; factors are shared [a, b] or per sample [n, a, b].

    Operators that name one `down` share its product (KARST's q, k and v), and the codes of those
    that name one `up` are added before it (FacT's fc2).
    """
    codes: dict[tuple[Place, Place | None, Span], Tensor] = {}
    sums: dict[tuple[Place, Span], Tensor] = {}
    for op in operators:
        mix = op.mix if isinstance(op, KroneckerAt) else None
        key = (op.down, mix, op.cols)
        if key not in codes:
            codes[key] = _code(_cut(x, op.cols), op, rows)
        code, place = codes[key], (op.up, op.rows)
        if isinstance(op, LowRankAt) and op.core is not None:
            code = torch.matmul(code, op.core.of(rows).mT)
        sums[place] = sums[place] + code if place in sums else code
    for (up, span), code in sums.items():
        factor, mine = up.of(rows), _cut(out, span)
        if len(up.shape) == 3:  # of a Kronecker product: [k, out/p, r]
            factor = factor.transpose(-3, -2).flatten(-2)
            mine.add_(torch.matmul(code, factor.mT).view(mine.shape))
        elif factor.ndim == 3:
            mine.baddbmm_(code, factor.mT)
        else:
            mine.add_(torch.matmul(code, factor.mT))


def _code(x: Tensor, op: OperatorAt, rows: Tensor) -> Tensor:
    """What comes out of `down`, and of `mix` where there is one: [n, N, r] or [n, N·p, k·r]."""
    if isinstance(op, KroneckerAt):
        return _mixed(x, op, rows)
    return torch.matmul(x, op.down.of(rows).mT)


def _mixed(x: Tensor, op: KroneckerAt, rows: Tensor) -> Tensor:
    """The code [n, N·p, k·r] with code · [k·r, out/p] = (Σ mix ⊗ up·down) x."""
    mix, down = op.mix.of(rows), op.down.of(rows)
    k, p, q = op.mix.shape
    r = op.down.shape[1]
    n, tokens = x.shape[:2]
    parts = x.reshape(n, tokens * q, -1)  # [n, N·q, in/q]
    code = torch.matmul(parts, down.flatten(-3, -2).mT).view(n, tokens, q, k, r)
    equation = "nkpq,ntqkr->ntpkr" if mix.ndim == 4 else "kpq,ntqkr->ntpkr"
    return torch.einsum(equation, mix, code).reshape(n, tokens * p, k * r)


def _cut(t: Tensor, span: Span) -> Tensor:
    return t if span is None else t[..., span[0] : span[1]]


def _per_channel(values: Tensor) -> Tensor:
    """An affine term, one for all [d] or one a sample [n, d], to act on tokens [n, N, d]."""
    return values[:, None, :] if values.ndim == 2 else values
