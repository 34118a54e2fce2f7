"""The bank of one layout: rows of one device tensor, given out and taken back. Knows no adapter.

Row 0 is the identity: whoever names it is not changed. A batch names its rows by index, so what is
computed never depends on which adapters are where.
"""

import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from serving.engine.copies import Copies
from serving.engine.layout import Layout

_FIRST: Final = 8  # rows of a new bank


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Row:
    """A row that is given out; it goes back when nobody refers to this any more."""

    bank: "Bank"
    index: int
    numbers: Tensor  # [layout.size], a view into the bank


class Bank:
    """Rows of one layout; threads may share it."""

    def __init__(self, layout: Layout, dtype: torch.dtype, copies: Copies) -> None:
        """Nothing is given out.

        Args:
            layout: of every row.
            dtype: of the numbers.
            copies: the way onto the device.
        """
        self.layout, self._copies = layout, copies
        self._lock = threading.Lock()
        self._free = list(range(_FIRST - 1, 0, -1))
        self._returned: deque[int] = deque()  # appended to without the lock: by the collector
        self._given: weakref.WeakValueDictionary[int, Row] = weakref.WeakValueDictionary()
        with copies.beside():
            self.rows = torch.zeros(_FIRST, layout.size, dtype=dtype, device=copies.device)
            for _, form in layout.targets:
                for place in (form.alpha, form.gamma):
                    if place is not None:
                        place.of(self.rows[0]).fill_(1)

    def put(self, numbers: Tensor) -> Row:
        """Write a row of host memory into the bank; doubles the bank when it is full.

        A bank that grew has another tensor: who computes must look at `rows` for every batch.
        """
        with self._lock:
            self._take_back()
            if not self._free:
                self._grow()
            index = self._free.pop()
            row = Row(self, index, self.rows[index])
            weakref.finalize(row, self._returned.append, index).atexit = False
            self._given[index] = row
            self._copies.fill(numbers, row.numbers)
        return row

    @property
    def idle(self) -> bool:
        """Nothing is given out."""
        return not self._given

    def check(self) -> None:
        """Verify the bookkeeping.

        Raises:
            AssertionError: it is broken.
        """
        with self._lock:
            self._take_back()
            free, given = set(self._free), dict(self._given)
            assert len(free) == len(self._free), "a row is free twice"
            assert not free & set(given), "a row is free and given out"
            assert free | set(given) == set(range(1, len(self.rows))), "a row is lost"
            for index, row in given.items():
                assert row.index == index
                assert row.numbers.data_ptr() == self.rows[index].data_ptr(), "a row stayed behind"

    def _take_back(self) -> None:
        while self._returned:
            self._free.append(self._returned.popleft())

    def _grow(self) -> None:
        old, count = self.rows, len(self.rows)
        with self._copies.beside():
            new = old.new_zeros(2 * count, self.layout.size)
            new[:count].copy_(old)
        if old.is_cuda:  # a batch that was launched may still read it
            old.record_stream(torch.cuda.current_stream(old.device))
        self.rows = new
        for row in list(self._given.values()):
            row.numbers.data = new[row.index]  # the same numbers, so that the old ones can go
        self._free += range(2 * count - 1, count - 1, -1)
