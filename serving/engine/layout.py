"""How a normal form lies in one flat row of numbers. Knows no batch, no slot and no network.

An adapter on the device is one flat vector and a layout that says where each factor is. Adapters
of one method with one set of options share a layout, so a batch gathers their rows with one copy,
for all targets at once, and never touches a target's factors one by one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters_store.normal_form import (
    Index,
    Kronecker,
    LinearForm,
    LowRank,
    NormalForm,
    Operator,
    expand,
)

_ALIGN = 32  # numbers; factors begin on cache lines


@dataclass(frozen=True, slots=True)
class Place:
    """Where one factor is in the row."""

    start: int
    shape: tuple[int, ...]

    def of(self, rows: Tensor) -> Tensor:
        """The factor of one row [L] or of several [n, L], without copying."""
        size = 1
        for n in self.shape:
            size *= n
        return rows[..., self.start : self.start + size].view(*rows.shape[:-1], *self.shape)


Span = tuple[int, int] | None  # first and last + 1 of the rows or columns that are touched


@dataclass(frozen=True, slots=True)
class LowRankAt:
    """up · core · down."""

    down: Place
    core: Place | None
    up: Place
    rows: Span
    cols: Span


@dataclass(frozen=True, slots=True)
class KroneckerAt:
    """Σ mix ⊗ (up · down)."""

    mix: Place
    down: Place
    up: Place
    rows: Span
    cols: Span


OperatorAt = LowRankAt | KroneckerAt


@dataclass(frozen=True, slots=True)
class FormAt:
    """The form of one target."""

    P: tuple[OperatorAt, ...]
    Q: tuple[OperatorAt, ...]
    alpha: Place | None
    c: Place | None
    gamma: Place | None
    beta: Place | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is, target by target; equal for adapters that can share a segment."""

    targets: tuple[tuple[str, FormAt], ...]
    size: int  # numbers in a row


def flatten(
    form: NormalForm,
    sizes: dict[str, tuple[int, int]],
    dtype: torch.dtype,
    *,
    expanded: bool = False,
    even: bool = False,
) -> tuple[Layout, Tensor]:
    """The layout of a form and its row, [size], in `dtype`.

    Args:
        form: of one adapter.
        sizes: (outputs, inputs) of every target.
        dtype: of the row.
        expanded: lay Kronecker operators out as plain low-rank ones.
        even: spread odd runs of columns out, for products that eat two inner steps at once.
    """
    writer = _Writer(dtype)
    targets = tuple(
        (path, _form_at(target, sizes[path], writer, expanded=expanded, even=even))
        for path, target in sorted(form.items())
    )
    row = writer.row()
    return Layout(targets, row.numel()), row


class _Writer:
    """Collects factors into one row; a factor that several operators share is written once."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.end = dtype, 0
        self.parts: list[Tensor] = []
        self.seen: dict[int, tuple[Tensor, Place]] = {}

    def put(self, tensor: Tensor | None) -> Place | None:
        return None if tensor is None else self.place(tensor)

    def vector(self, tensor: Tensor | None, length: int) -> Place | None:
        return None if tensor is None else self.place(tensor.expand(length))

    def place(self, tensor: Tensor) -> Place:
        if found := self.seen.get(id(tensor)):
            return found[1]
        place = Place(self.end, tuple(tensor.shape))
        flat = tensor.detach().to(self.dtype).reshape(-1)
        pad = flat.new_zeros(-flat.numel() % _ALIGN)
        self.parts += [flat, pad]
        self.end += flat.numel() + pad.numel()
        self.seen[id(tensor)] = (tensor, place)  # keeps the tensor alive, so its id stays its own
        return place

    def row(self) -> Tensor:
        return torch.cat(self.parts) if self.parts else torch.empty(0, dtype=self.dtype)


def _form_at(
    form: LinearForm, size: tuple[int, int], writer: _Writer, *, expanded: bool, even: bool
) -> FormAt:
    outputs, inputs = size
    return FormAt(
        P=tuple(_operators(form.P, (inputs, inputs), writer, expanded=expanded, even=even)),
        Q=tuple(_operators(form.Q, (outputs, inputs), writer, expanded=expanded, even=even)),
        alpha=writer.vector(form.alpha, inputs),
        c=writer.vector(form.c, inputs),
        gamma=writer.vector(form.gamma, outputs),
        beta=writer.vector(form.beta, outputs),
    )


def _operators(
    operators: tuple[Operator, ...],
    size: tuple[int, int],
    writer: _Writer,
    *,
    expanded: bool,
    even: bool,
) -> Iterator[OperatorAt]:
    for given in operators:
        op = expand(given) if expanded and isinstance(given, Kronecker) else given
        rows, cols = op.rows, op.cols
        odd = even and isinstance(op, Kronecker) and op.down.shape[2] % 2 == 1
        if isinstance(op, Kronecker) and (_scattered(rows) or _scattered(cols) or odd):
            op = expand(op)
        if even and isinstance(cols, slice) and op.down.shape[-1] % 2:
            start, stop, _ = cols.indices(size[1])
            cols = torch.arange(start, stop)
        match op:
            case LowRank():
                down = _spread(op.down, cols, size[1], dim=1) if _scattered(cols) else op.down
                up = op.up
                if isinstance(rows, Tensor):
                    run = _run(rows, size[0])
                    up = _spread(up, rows - run.start, run.stop - run.start, dim=0)
                    rows = run
                yield LowRankAt(
                    down=writer.place(down),
                    core=writer.put(op.core),
                    up=writer.place(up),
                    rows=_span(rows, size[0]),
                    cols=_span(cols, size[1]),
                )
            case Kronecker():
                yield KroneckerAt(
                    mix=writer.place(op.mix),
                    down=writer.place(op.down),
                    up=writer.place(op.up),
                    rows=_span(rows, size[0]),
                    cols=_span(cols, size[1]),
                )


def _scattered(index: Index | None) -> bool:
    return isinstance(index, Tensor)


def _run(rows: Tensor, outputs: int) -> slice:
    """The outputs that scattered rows are spread over: the third that holds them, or all.

    Three projections lie fused in one target, and heads are of one of them. No closer fit: adapters
    of one method should lie alike, whichever their heads are.
    """
    third, rest = divmod(outputs, 3)
    first, last = int(rows[0]), int(rows[-1])
    if rest or first // third != last // third:
        return slice(0, outputs)
    start = first // third * third
    return slice(start, start + third)


def _span(index: Index | None, length: int) -> Span:
    """Scattered columns are spread over all of them, so they span everything."""
    if not isinstance(index, slice):
        return None
    start, stop, step = index.indices(length)
    assert step == 1, "operators act on whole runs or on index vectors"
    return start, stop


def _spread(factor: Tensor, index: Index | None, length: int, dim: int) -> Tensor:
    """A factor with packed rows (dim 0) or columns (dim 1), at their places among zeros."""
    shape = (length, factor.shape[1]) if dim == 0 else (factor.shape[0], length)
    whole = factor.new_zeros(shape)
    assert isinstance(index, Tensor)
    return whole.index_copy(dim, index, factor)
