"""Copies from host memory to the device, beside the batch that runs. Knows tensors only.

On CUDA a copy goes through one pinned buffer and a stream of its own. One buffer, not pinned
adapters: torch rounds each pinned allocation up to a power of two, and thousands of adapters in
host memory should take what their artifacts take. Elsewhere it is a plain copy.

Streams: whatever computes on the device does so on its default stream, which all threads share.
It waits for a copy before `move` and `fill` return, so that what is launched later sees it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Copies:
    """The way onto one device; threads may share it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._lock = threading.Lock()  # guards the buffer
        self._side = stream(device) if device.type == "cuda" else None
        self._buffer = torch.empty(0, dtype=torch.uint8)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What is launched inside runs beside the batch; what is launched later waits for it."""
        if self._side is None:
            yield
            return
        with torch.cuda.stream(self._side):
            yield
        torch.cuda.current_stream(self.device).wait_stream(self._side)

    def move(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies of host tensors on the device.

        Their memory belongs to the side stream. Whoever drops them has waited for the batch that
        read them, so it can be given out again at once.
        """
        with self.beside():
            moved = [torch.empty(t.shape, dtype=t.dtype, device=self.device) for t in tensors]
            for source, target in zip(tensors, moved, strict=True):
                self._copy(source, target)
        return moved

    def fill(self, source: Tensor, target: Tensor) -> None:
        """Write a host tensor into memory on the device that no batch reads."""
        with self.beside():
            self._copy(source, target)

    def _copy(self, source: Tensor, target: Tensor) -> None:
        if self._side is None or source.numel() == 0:
            target.copy_(source)
            return
        with self._lock:
            self._side.synchronize()  # the copy before is out of the buffer
            staged = self._staged(source)
            staged.copy_(source)
            target.copy_(staged, non_blocking=True)

    def _staged(self, like: Tensor) -> Tensor:
        """The pinned buffer, shaped as the tensor."""
        wanted = like.numel() * like.element_size()
        if self._buffer.numel() < wanted:
            self._buffer = torch.empty(wanted, dtype=torch.uint8, pin_memory=True)
        return self._buffer[:wanted].view(like.dtype).view(like.shape)


def stream(device: torch.device) -> torch.cuda.Stream:
    make: Callable[..., torch.cuda.Stream] = torch.cuda.Stream  # torch leaves it untyped
    return make(device)


def pinned(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A host tensor of zeros that the device copies from without the processor's help."""
    return torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")
