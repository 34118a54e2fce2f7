"""One forward on one thread: pixels and adapters in, logits out. By the native kernel, or by torch.

Both do the same; torch's is the reference and runs everywhere, on accelerators too.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from adapters_store.pixels import normalise
from serving.engine.lane import MixedLane
from serving.engine.native import Heads, Kernel
from serving.engine.native_lane import NativeLane
from serving.engine.prepared import Prepared
from serving.engine.program import Programs

Logits = list[NDArray[np.float32]]


class Forward(Protocol):
    """A network that is ready to run; for one thread at a time."""

    def __call__(self, pixels: NDArray[np.uint8], adapters: Sequence[Prepared]) -> Logits:
        """uint8 [B, 3, H, W] and an adapter for each → float32 [labels] for each."""
        ...


class NativeForward:
    """Through the native kernel."""

    def __init__(
        self,
        net: nn.Module,
        targets: Sequence[str],
        kernel: Kernel,
        attention: str,
        nothing: Programs,
    ) -> None:
        """Make a twin of `net`, which stays as it is; `nothing` stands for adapters without any."""
        self._kernel, self._nothing = kernel, nothing
        self._lane = NativeLane(net, targets, kernel, attention)

    def __call__(self, pixels: NDArray[np.uint8], adapters: Sequence[Prepared]) -> Logits:
        """See `Forward`."""
        with torch.inference_mode():
            vectors = self._lane.features(
                torch.from_numpy(np.ascontiguousarray(pixels)),
                [a.programs or self._nothing for a in adapters],
                [a.row for a in adapters],
                *_scaling(adapters),
            )
            assert vectors.shape == (len(adapters), adapters[0].weight.shape[1])
            return self._heads(vectors.to(torch.float32).contiguous(), adapters)

    def _heads(self, vectors: Tensor, adapters: Sequence[Prepared]) -> Logits:
        """All heads in one call."""
        labels = np.array([a.bias.shape[0] for a in adapters], dtype=np.int64)
        stops = np.cumsum(labels)
        starts = stops - labels
        weight, bias = (
            np.array([t.data_ptr() for t in tensors], dtype=np.int64)
            for tensors in ([a.weight for a in adapters], [a.bias for a in adapters])
        )
        out = np.empty(int(stops[-1]), dtype=np.float32)
        call = Heads(samples=len(adapters), features=vectors.shape[1])
        call.vectors, call.out = vectors.data_ptr(), out.ctypes.data
        call.weight, call.bias = weight.ctypes.data, bias.ctypes.data
        call.labels, call.start = labels.ctypes.data, starts.ctypes.data
        self._kernel.heads(ctypes.byref(call))
        return np.split(out, stops[:-1])


class TorchForward:
    """By torch alone, on any device."""

    def __init__(
        self, net: nn.Module, targets: Sequence[str], device: torch.device, dtype: torch.dtype
    ) -> None:
        """Make a twin of `net`, which stays as it is."""
        self._lane, self._device, self._dtype = MixedLane(net, targets), device, dtype

    def __call__(self, pixels: NDArray[np.uint8], adapters: Sequence[Prepared]) -> Logits:
        """See `Forward`."""
        order = sorted(range(len(adapters)), key=_by_layout_then_adapter(adapters))
        ordered = [adapters[i] for i in order]
        with torch.inference_mode():
            images = torch.from_numpy(pixels[order]).to(self._device)
            vectors = self._lane.features(
                normalise(images, *_scaling(ordered)).to(self._dtype),
                [a.layout for a in ordered],
                [a.row for a in ordered],
            ).to(torch.float32)
            logits = [v.cpu().numpy() for v in _grouped_heads(vectors, ordered)]
        answers: Logits = [np.empty(0, np.float32)] * len(order)
        for i, row in zip(order, logits, strict=True):
            answers[i] = row
        return answers


def _grouped_heads(vectors: Tensor, adapters: Sequence[Prepared]) -> list[Tensor]:
    """One product for each run of one adapter."""
    found: list[Tensor] = []
    start = 0
    while start < len(adapters):
        stop, head = start, adapters[start]
        while stop < len(adapters) and adapters[stop] is head:
            stop += 1
        found += F.linear(vectors[start:stop], head.weight, head.bias).unbind()
        start = stop
    return found


def _scaling(adapters: Sequence[Prepared]) -> tuple[Tensor, Tensor]:
    return torch.stack([a.mean for a in adapters]), torch.stack([a.std for a in adapters])


def _by_layout_then_adapter(adapters: Sequence[Prepared]) -> Callable[[int], tuple[int, int]]:
    """A sort key that makes equal layouts neighbours, and equal adapters among them."""
    return lambda i: (id(adapters[i].layout), id(adapters[i]))
