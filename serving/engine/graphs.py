"""Forwards over banks, recorded once and replayed with other adapters. Knows no slot and no task.

A CUDA graph is a recording of addresses: it reads pixels, scaling and row indices from buffers that
stay where they are, and factors from the banks. A swapped adapter is another number in an index, so
nothing is recorded again. Heads differ in size and stay outside. Off CUDA the same forward runs
over the same buffers without being recorded: the twin that is tested everywhere.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from serving.engine.bank import Bank
from serving.engine.bank_lane import LAYOUTS_MOST, BankLane, Part, bucket
from serving.engine.copies import pinned, stream
from serving.engine.forward import Logits, TorchForward
from serving.engine.grouped import Ranks
from serving.engine.prepared import Prepared

log = logging.getLogger(__name__)

_FEW: Final = 4  # heads; so many are applied to all samples
_WARM_UPS: Final = 3  # as torch's own notes on graphs have it
_ONE_RECORDING: Final = threading.Lock()  # torch: one capture at a time in a process


class Buffers:
    """What recorded forwards of one size read, at addresses that never change."""

    def __init__(self, size: tuple[int, ...], device: torch.device) -> None:
        """For images uint8 [B, 3, H, W]."""
        samples = size[0]
        self._host_images = pinned(size, torch.uint8, device)
        self._host_index = pinned((LAYOUTS_MOST, samples), torch.int64, device)
        self._pixels, self._numbers = self._host_images.numpy(), self._host_index.numpy()
        self.images = torch.zeros(size, dtype=torch.uint8, device=device)
        self.index = torch.zeros(LAYOUTS_MOST, samples, dtype=torch.int64, device=device)
        self.mean = torch.zeros(samples, 3, device=device)
        self.std = torch.ones(samples, 3, device=device)

    def fill(
        self, pixels: NDArray[np.uint8], adapters: Sequence[Prepared], banks: Sequence[Bank]
    ) -> None:
        """Lay out a batch; samples beyond it are what they were, but of no adapter.

        The batch before has been answered, so host buffers are free to be written.
        """
        count, line = len(adapters), {id(bank): i for i, bank in enumerate(banks)}
        self._pixels[:count] = pixels
        self._numbers.fill(0)
        for i, adapter in enumerate(adapters):
            if adapter.at is not None:
                self._numbers[line[id(adapter.at.bank)], i] = adapter.at.index
        self.images[:count].copy_(self._host_images[:count], non_blocking=True)
        self.index.copy_(self._host_index, non_blocking=True)
        self.mean[:count].copy_(torch.stack([a.mean for a in adapters]))
        self.std[:count].copy_(torch.stack([a.std for a in adapters]))


@dataclass(slots=True)
class Recording:
    """A forward of one size for some banks, as their tensors were."""

    run: Callable[[], Tensor]
    banks: tuple[Bank, ...]
    rows: tuple[Tensor, ...]  # kept alive: it reads them
    recorded: bool = False

    def fits(self) -> bool:
        """Whether the banks still have these tensors: growing gives them others."""
        return all(bank.rows is rows for bank, rows in zip(self.banks, self.rows, strict=True))


class Graphs:
    """A forward by recordings; torch alone where they cannot be had. For one thread at a time."""

    def __init__(
        self,
        net: nn.Module,
        targets: Sequence[str],
        device: torch.device,
        dtype: torch.dtype,
        ranks: Ranks,
        most: int = 32,
    ) -> None:
        """Nothing is recorded yet; `net` stays as it is.

        Args:
            net: on the device.
            targets: everything an adapter may change.
            device: recordings are made on CUDA only.
            dtype: of the network.
            ranks: those for which the grouped kernel is used.
            most: recordings kept; the least recently used goes.
        """
        self._device, self._most = device, most
        self._lane = BankLane(net, targets, dtype, ranks)
        self._plain = TorchForward(net, targets, device, dtype)
        self._buffers: dict[tuple[int, ...], Buffers] = {}
        self.recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._works = True
        self._cuda = _Cuda(device) if device.type == "cuda" else None

    def __call__(self, pixels: NDArray[np.uint8], adapters: Sequence[Prepared]) -> Logits:
        """See `Forward`."""
        banks = _banks(adapters) if self._works else None
        if banks is None:
            return self._plain(pixels, adapters)
        try:
            with torch.inference_mode():
                owners = owners_of(adapters, self._device)
                vectors = self._features(pixels, adapters, banks)
                return heads(vectors, adapters, owners)
        except Exception:
            log.warning("batches are computed one operation at a time from now on", exc_info=True)
            self._works = False
            self.recordings.clear()
        return self._plain(pixels, adapters)

    def _features(
        self, pixels: NDArray[np.uint8], adapters: Sequence[Prepared], banks: tuple[Bank, ...]
    ) -> Tensor:
        size = (bucket(len(adapters)), *pixels.shape[1:])
        if size not in self._buffers:
            self._buffers[size] = Buffers(size, self._device)
        buffers = self._buffers[size]
        buffers.fill(pixels, adapters, banks)
        key = (size, *(id(bank) for bank in banks))
        found = self.recordings.get(key)
        if found is not None and not found.fits():
            self._forget_grown()
            found = None
        if found is None:
            found = self.recordings[key] = self._unrecorded(buffers, banks)
        elif self._cuda is not None and not found.recorded:  # asked for again: worth the time
            found.run, found.recorded = self._cuda.record(found.run), True
        self.recordings.move_to_end(key)
        while len(self.recordings) > self._most:
            self.recordings.popitem(last=False)
        return found.run()

    def _forget_grown(self) -> None:
        """Drop what holds on to tensors that banks have left behind."""
        for key in [k for k, recording in self.recordings.items() if not recording.fits()]:
            del self.recordings[key]

    def _unrecorded(self, buffers: Buffers, banks: tuple[Bank, ...]) -> Recording:
        rows = tuple(bank.rows for bank in banks)
        parts = [
            Part(bank.layout, mine, buffers.index[i])
            for i, (bank, mine) in enumerate(zip(banks, rows, strict=True))
        ]

        def run() -> Tensor:
            return self._lane.features(buffers.images, buffers.mean, buffers.std, parts)

        return Recording(run, banks, rows)


class _Cuda:
    """Records what a function launches. Recordings share memory: they never run side by side."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = stream(device)  # of warm-ups and recordings
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A function that launches again what `run` launches; its result is always the same tensor.

        Other threads may copy and allocate meanwhile, hence "thread_local".
        """
        with _ONE_RECORDING, torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    run()
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                result = run()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


def _banks(adapters: Sequence[Prepared]) -> tuple[Bank, ...] | None:
    """The banks of a batch, in an order of their own; None where there is something without."""
    found: dict[int, Bank] = {}
    for adapter in adapters:
        if adapter.at is not None:
            found[id(adapter.at.bank)] = adapter.at.bank
        elif adapter.layout.targets:
            return None
    if len(found) > LAYOUTS_MOST:
        return None
    return tuple(found[key] for key in sorted(found))


def owners_of(adapters: Sequence[Prepared], device: torch.device) -> Tensor:
    """For every label of a batch, whose it is: int64 [labels of all samples]."""
    counts = [len(a.bias) for a in adapters]
    return torch.from_numpy(np.repeat(np.arange(len(adapters)), counts)).to(device)


def heads(vectors: Tensor, adapters: Sequence[Prepared], owners: Tensor) -> Logits:
    """Every sample's own head in few operations, and one copy to the host.

    Args:
        vectors: float32 [at least B, features].
        adapters: whose heads; of different numbers of labels.
        owners: of every label.
    """
    distinct = {id(a.weight): a for a in adapters}
    if len(distinct) <= _FEW:
        every = [F.linear(vectors, a.weight, a.bias) for a in distinct.values()]
        stops = np.cumsum([len(a.bias) for a in distinct.values()])
        blocks = np.split(torch.cat(every, dim=1).cpu().numpy(), stops[:-1], axis=1)
        found = dict(zip(distinct, blocks, strict=True))
        return [found[id(a.weight)][i] for i, a in enumerate(adapters)]
    weight, bias = torch.cat([a.weight for a in adapters]), torch.cat([a.bias for a in adapters])
    logits = (vectors.index_select(0, owners) * weight).sum(1) + bias
    return np.split(logits.cpu().numpy(), np.cumsum([len(a.bias) for a in adapters])[:-1])
