"""Prepared adapters onto the device, into the banks of their layouts. Knows no slot, no task."""

import threading
from dataclasses import replace
from typing import Final

import torch

from serving.engine.bank import Bank
from serving.engine.copies import Copies
from serving.engine.layout import Layout
from serving.engine.prepared import Prepared

_BANKS_MOST: Final = 64  # artifacts choose layouts; beyond this, banks that hold nothing go


class Banks:
    """All banks of one device; threads may share it."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """There is no bank yet."""
        self._dtype, self._copies = dtype, Copies(device)
        self._lock = threading.Lock()
        self._banks: dict[Layout, Bank] = {}

    def place(self, prepared: Prepared) -> Prepared:
        """A copy on the device, its row in a bank; the row goes back when the copy is dropped."""
        if prepared.at is not None:
            return prepared
        weight, bias, mean, std = self._copies.move(
            (prepared.weight, prepared.bias, prepared.mean, prepared.std)
        )
        placed = replace(prepared, weight=weight, bias=bias, mean=mean, std=std)
        if not prepared.layout.targets:
            return replace(placed, row=prepared.row.to(self._copies.device))
        with self._lock:  # a bank never goes between being found and being written
            row = self._bank(prepared.layout).put(prepared.row)
        return replace(placed, row=row.numbers, at=row)

    def check(self) -> None:
        """Verify the bookkeeping of every bank."""
        with self._lock:
            for layout, bank in self._banks.items():
                assert bank.layout == layout
                bank.check()

    def _bank(self, layout: Layout) -> Bank:
        if layout not in self._banks:
            if len(self._banks) >= _BANKS_MOST:
                self._banks = {k: bank for k, bank in self._banks.items() if not bank.idle}
            self._banks[layout] = Bank(layout, self._dtype, self._copies)
        return self._banks[layout]
