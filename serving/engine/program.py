"""Layouts as programs of the native kernel, and rows packed for it. Knows no batch and no network.

The kernel (`native/kernels.cpp`) runs, for each sample and target, one program on the tokens that
enter the target and one on those that leave it. A program is a table of integers, the same for all
adapters of one layout; factors are packed once, when an adapter is prepared, the way that the
processor's products eat them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from serving.engine.layout import FormAt, KroneckerAt, Layout, LowRankAt, OperatorAt, Place

LANES: Final = 16
_CACHE_LINE: Final = 64  # bytes
_LINE: Final = 32  # numbers of bfloat16
_CODE, _MIX, _UP, _SCALE, _SHIFT, _BOTH = range(6)
_EMPTY: Final = FormAt((), (), None, None, None, None)

Pack = Callable[[Tensor], Tensor]  # a flat row [L] → bytes, uint8


@dataclass(frozen=True, slots=True, eq=False)
class Programs:
    """What the kernel does for one layout, by target; addresses are 0 where it does nothing."""

    before: NDArray[np.int64]  # [targets] addresses
    after: NDArray[np.int64]
    keep: NDArray[np.int64]  # numbers a token's codes take between the two
    size: int  # bytes of a packed row
    packing: tuple[tuple[int, Pack], ...]  # where each factor goes, and what makes it
    tables: tuple[NDArray[np.int32], ...]  # what the addresses point to

    def pack(self, row: Tensor) -> Tensor:
        """A flat row as the kernel reads it: uint8 [size]."""
        packed = torch.zeros(self.size, dtype=torch.uint8)
        for start, make in self.packing:
            part = make(row)
            packed[start : start + part.numel()] = part
        return packed


def compile_layout(
    layout: Layout,
    targets: Mapping[str, int],
    leads: Mapping[str, str],
    dtype: torch.dtype,
) -> Programs:
    """The programs of a layout.

    Args:
        layout: without odd runs of columns where `dtype` is bfloat16 (`flatten(even=True)`).
        targets: outputs of everything an adapter may change, in the order of the lane's count.
        leads: target → norm right before it, whose affine terms its program then applies.
        dtype: of tokens and factors.
    """
    forms = dict(layout.targets)
    packer = _Packer(dtype)
    before, after, keep = (np.zeros(len(targets), dtype=np.int64) for _ in range(3))
    tables: list[NDArray[np.int32]] = []

    def table(program: "_Program") -> int:
        if not program.instructions:
            return 0
        tables.append(program.table())
        return int(tables[-1].ctypes.data)

    led = set(leads.values())
    for i, (path, outputs) in enumerate(targets.items()):
        if path in led:
            continue
        form, norm = forms.get(path, _EMPTY), forms.get(leads.get(path, ""), _EMPTY)
        inward, outward = _Program(packer), _Program(packer)
        # Laid out before P's codes, so that what is kept for the other side lies in front; run
        # after them, because Q reads what P made.
        sources, keep[i] = inward.codes(form.Q)
        inward.keep = int(keep[i])
        outer, inward.instructions = inward.instructions, []
        inward.affine(norm.gamma, norm.beta)
        inner, _ = inward.codes(form.P)
        inward.affine(form.alpha, None)
        inward.ups(inner)
        inward.affine(None, form.c)
        inward.instructions += outer
        if not outward.scaled_ups(sources, form, outputs):
            outward.ups(sources)
            outward.affine(form.gamma, form.beta)
        before[i], after[i] = table(inward), table(outward)
    return Programs(before, after, keep, packer.end, tuple(packer.parts), tuple(tables))


@dataclass(slots=True)
class _Source:
    """Codes that are ready, and the factor that takes them up."""

    at: int  # first number of a token's codes
    op: OperatorAt
    apart: int  # between the blocks of a Kronecker product


class _Packer:
    """Gives every factor its place in the packed row; one that several targets share has one."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.end = dtype, 0
        self.step = 1 if dtype == torch.float32 else 2  # inner steps in one instruction
        self.parts: list[tuple[int, Pack]] = []
        self._seen: dict[tuple[object, ...], int] = {}

    def _add(self, key: tuple[object, ...], size: int, make: Pack) -> int:
        if key not in self._seen:
            self._seen[key] = self.end
            self.parts.append((self.end, make))
            self.end += -(-size // _CACHE_LINE) * _CACHE_LINE
        return self._seen[key]

    def panels(self, factors: Sequence[tuple[Place, int]], *, flip: bool = False) -> int:
        """Factors [outputs, inner] under each other, each from its own first output on.

        Packed as [outputs / 16, inner / step, 16, step]. `flip`: [k, outputs, r], inner = k·r.
        """
        shape = factors[0][0].shape
        inner = shape[0] * shape[2] if flip else shape[-1]
        outputs = factors[-1][1] + (shape[1] if flip else _rows(factors[-1][0]))

        def make(row: Tensor) -> Tensor:
            whole = torch.zeros(outputs, inner, dtype=self.dtype)
            for place, first in factors:
                given = place.of(row)
                given = (given.transpose(0, 1) if flip else given).reshape(-1, inner)
                whole[first : first + given.shape[0]] = given
            return self._panels(whole)

        size = _up_to(outputs, LANES) * _up_to(inner, self.step) * self.dtype.itemsize
        return self._add(("panels", tuple(factors), flip), size, make)

    def beside(self, factors: Sequence[Place]) -> int:
        """Factors [outputs, inner] beside each other, as one."""
        inner, outputs = sum(f.shape[1] for f in factors), factors[0].shape[0]

        def make(row: Tensor) -> Tensor:
            return self._panels(torch.cat([f.of(row) for f in factors], dim=1))

        size = _up_to(outputs, LANES) * inner * self.dtype.itemsize
        return self._add(("beside", tuple(factors)), size, make)

    def _panels(self, whole: Tensor) -> Tensor:
        """[outputs, inner] as [outputs / 16, inner / step, 16, step]; zeros where it ends early."""
        outputs, inner = whole.shape
        height, depth = _up_to(outputs, LANES), _up_to(inner, self.step)
        whole = F.pad(whole, (0, depth - inner, 0, height - outputs))
        panels = whole.view(height // LANES, LANES, depth // self.step, self.step)
        return _bytes(panels.transpose(1, 2))

    def weights(self, mix: Place, rank: int, width: int) -> int:
        """Mix [k, p, q] as [p, q, width]: every number once for each of its branch's codes."""
        _, p, q = mix.shape
        blocks = _up_to(q, self.step)

        def make(row: Tensor) -> Tensor:
            lanes = mix.of(row).permute(1, 2, 0).repeat_interleave(rank, dim=2)
            lanes = F.pad(lanes, (0, width - lanes.shape[2], 0, blocks - q))
            return _bytes(lanes.view(p, blocks // self.step, self.step, width).transpose(2, 3))

        return self._add(("weights", mix, rank), p * blocks * width * self.dtype.itemsize, make)

    def both(self, scale: Place, shift: Place | None, run: tuple[int, int]) -> int:
        """Scales of a run of outputs and, right behind them, shifts; in float32."""

        def make(row: Tensor) -> Tensor:
            by = scale.of(row)[slice(*run)].float()
            to = torch.zeros_like(by) if shift is None else shift.of(row)[slice(*run)].float()
            return _bytes(torch.cat([by, to]))

        return self._add(("both", scale, shift, run), (run[1] - run[0]) * 8, make)

    def terms(self, places: Sequence[Place]) -> int:
        """Affine terms, in float32, one behind the other."""
        return self._add(
            ("terms", *places),
            sum(place.shape[0] * 4 for place in places),
            lambda row: _bytes(torch.cat([place.of(row).float() for place in places])),
        )


@dataclass(slots=True)
class _Program:
    """Instructions on the tokens of one side of one target."""

    packer: _Packer
    width: int = 0  # numbers in a token's codes so far
    keep: int = 0  # of these, the first so many are for the other side
    instructions: list[tuple[int, ...]] = field(default_factory=list)

    def table(self) -> NDArray[np.int32]:
        """As the kernel reads it."""
        flat = [n for i in self.instructions for n in (*i, *(0,) * (12 - len(i)))]
        # Rows an odd number of cache lines apart: a tile's rows then lie in different sets.
        width = _up_to(self.width, _LINE)
        width += 0 if width // _LINE % 2 else _LINE
        return np.array([len(self.instructions), width, self.keep, 0, *flat], dtype=np.int32)

    def affine(self, scale: Place | None, shift: Place | None) -> None:
        terms = [place for place in (scale, shift) if place is not None]
        if not terms:
            return
        kind = _BOTH if len(terms) == 2 else _SCALE if scale is not None else _SHIFT
        n, offset = terms[0].shape[0], self.packer.terms(terms)
        self.instructions.append((kind, 1, n, n, 0, 0, 0, 0, offset))

    def codes(self, operators: Sequence[OperatorAt]) -> tuple[list[_Source], int]:
        """Compute what stands before each distinct `up`; operators that share one are added up.

        Returns:
            the codes, and the width up to which they lie.
        """
        places: dict[tuple[Place, object], list[OperatorAt]] = {}
        for op in operators:
            places.setdefault((op.up, op.rows), []).append(op)
        alone = {id(ops[0]) for ops in places.values() if len(ops) == 1 and _is_plain(ops[0])}
        found = self._side_by_side([ops[0] for ops in places.values() if id(ops[0]) in alone])
        sources, rest = [], []
        for ops in places.values():
            first = ops[0]
            if id(first) in alone:
                sources.append(_Source(found[_key(first)], first, 0))
                continue
            if isinstance(first, KroneckerAt):
                apart = _up_to(first.mix.shape[0] * first.down.shape[1], LANES)
                source = _Source(self._room(first.mix.shape[1] * apart), first, apart)
            else:
                source = _Source(self._room(_up_to(first.up.shape[1], LANES)), first, 0)
            sources.append(source)
            rest.append((source, ops))
        end = self.width
        for source, ops in rest:
            if self._in_a_row(source, ops):
                continue
            for i, op in enumerate(ops):
                if isinstance(op, KroneckerAt):
                    self._mix(op, source.at, source.apart, add=i > 0, last=i + 1 == len(ops))
                else:
                    self._product(op, source.at, add=i > 0)
        return sources, end

    def _in_a_row(self, source: _Source, ops: Sequence[OperatorAt]) -> bool:
        """Operators that read one run of columns after the other, done as one long product."""
        if not all(_is_plain(op) and op.cols is not None for op in ops):
            return False
        downs = [(op.down, op.cols or (0, 0)) for op in ops]
        if any(one[1] != other[0] for (_, one), (_, other) in pairwise(downs)):
            return False
        offset = self.packer.beside([down for down, _ in downs])
        first, stop = downs[0][1][0], downs[-1][1][1]
        n = _up_to(_rows(downs[0][0]), LANES)
        self.instructions.append((_CODE, 1, stop - first, n, first, 0, source.at, 0, offset))
        return True

    def scaled_ups(self, sources: Sequence[_Source], form: FormAt, outputs: int) -> bool:
        """Sums and affine terms in one go, where every output has exactly one sum."""
        runs = sorted(source.op.rows or (0, outputs) for source in sources)
        tiled = runs and all(one[1] == other[0] for one, other in pairwise(runs))
        if form.gamma is None or not tiled or (runs[0][0], runs[-1][1]) != (0, outputs):
            return False
        self.ups(
            sources,
            [
                1 + self.packer.both(form.gamma, form.beta, source.op.rows or (0, outputs))
                for source in sources
            ],
        )
        return True

    def ups(self, sources: Sequence[_Source], terms: Sequence[int] = ()) -> None:
        for source, term in zip_longest(sources, terms, fillvalue=0):
            assert isinstance(source, _Source)
            op = source.op
            first = 0 if op.rows is None else op.rows[0]
            if isinstance(op, KroneckerAt):
                k, n, r = op.up.shape
                reps, inner = op.mix.shape[1], k * r
                offset = self.packer.panels([(op.up, 0)], flip=True)
            else:
                (n, inner), reps = op.up.shape, 1
                offset = self.packer.panels([(op.up, 0)])
            inner = _up_to(inner, self.packer.step)
            self.instructions.append(
                (_UP, reps, inner, n, source.at, source.apart, first, n, offset, 0, 0, term)
            )

    def _room(self, width: int) -> int:
        at, self.width = self.width, self.width + width
        return at

    def _side_by_side(self, operators: Sequence[OperatorAt]) -> dict[object, int]:
        """One product for all that read the same columns: small ranks share the lanes."""
        found: dict[object, int] = {}
        groups: dict[object, list[LowRankAt]] = {}
        for op in operators:
            assert isinstance(op, LowRankAt)
            if _key(op) not in found:
                found[_key(op)] = -1
                groups.setdefault(op.cols, []).append(op)
        for ops in groups.values():
            firsts = [0]
            for op in ops:
                firsts.append(firsts[-1] + _up_to(_rows(op.down), self.packer.step))
            at = self._room(_up_to(firsts[-1], LANES))
            stacked = [(op.down, first) for op, first in zip(ops, firsts, strict=False)]
            self._code(ops[0].cols, stacked, at, _up_to(firsts[-1], LANES))
            for op, (first, _) in zip(ops, pairwise(firsts), strict=True):
                found[_key(op)] = at + first
        return found

    def _code(
        self,
        cols: object,
        factors: Sequence[tuple[Place, int]],
        at: int,
        n: int,
        *,
        add: bool = False,
        source: int | None = None,
    ) -> None:
        inner = _up_to(factors[0][0].shape[-1], self.packer.step)
        start = source if source is not None else cols[0] if isinstance(cols, tuple) else 0
        offset = self.packer.panels(list(factors))
        self.instructions.append(
            (_CODE, 1, inner, n, start, 0, at, 0, offset, int(add), int(source is not None))
        )

    def _product(self, op: LowRankAt, at: int, *, add: bool) -> None:
        """Codes of one low-rank operator, through its core where it has one."""
        if op.core is None:
            self._code(op.cols, [(op.down, 0)], at, _up_to(_rows(op.down), LANES), add=add)
            return
        n = _up_to(_rows(op.core), LANES)
        self._code(None, [(op.core, 0)], at, n, add=add, source=self._before_core(op))

    def _before_core(self, op: LowRankAt) -> int:
        """The codes in front of a core; operators that share `down` share them."""
        start = 0 if op.cols is None else op.cols[0]
        offset = self.packer.panels([(op.down, 0)])
        for kind, _, _, _, src, _, dst, _, where, add, from_code, *_ in self.instructions:
            if (kind, where, src, add, from_code) == (_CODE, offset, start, 0, 0):
                return dst
        raw = self._room(_up_to(_rows(op.down), LANES))
        self._code(op.cols, [(op.down, 0)], raw, _up_to(_rows(op.down), LANES))
        return raw

    def _mix(self, op: KroneckerAt, at: int, width: int, *, add: bool, last: bool) -> None:
        """Codes of one Kronecker product: block by block, then mixed."""
        _, p, q = op.mix.shape
        raw = self._raw(op, width)
        offset = self.packer.weights(op.mix, op.down.shape[1], width)
        flags = int(add), int(not last)
        self.instructions.append((_MIX, p, q, width, raw, width, at, width, offset, *flags))

    def _raw(self, op: KroneckerAt, width: int) -> int:
        """The codes of the input's blocks; operators that share `down` share them."""
        q, inner = op.mix.shape[2], op.down.shape[2]
        start = 0 if op.cols is None else op.cols[0]
        offset = self.packer.panels([(op.down, 0)])
        for kind, reps, _, _, src, _, dst, _, where, *_ in self.instructions:
            if (kind, reps, where, src) == (_CODE, q, offset, start):
                return dst
        at = self._room(_up_to(q, self.packer.step) * width)
        place = (start, inner, at, width, offset)
        self.instructions.append((_CODE, q, inner, width, *place, 0, 0, 1))
        return at


def _is_plain(op: OperatorAt) -> bool:
    return isinstance(op, LowRankAt) and op.core is None


def _key(op: OperatorAt) -> tuple[object, ...]:
    return op.down, op.cols


def _rows(place: Place) -> int:
    """Outputs of a factor that is stored as [outputs, inner] or [k, outputs, inner]."""
    return place.shape[0] * (place.shape[1] if len(place.shape) == 3 else 1)


def _up_to(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _bytes(t: Tensor) -> Tensor:
    return t.contiguous().view(-1).view(torch.uint8)
