"""One batch as the native kernel sees it: addresses of programs, rows, tokens. Knows no network."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from serving.engine.native import NOTHING, Attention, Kernel, Pixels, Stage
from serving.engine.program import Programs


@dataclass(slots=True)
class Batch:
    """What the running batch does at each target; empty between batches."""

    kernel: Kernel
    samples: int = 0
    before: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    after: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    starts: list[bool] = field(default_factory=list)  # whether any sample does something, by target
    ends: list[bool] = field(default_factory=list)
    keep: list[int] = field(default_factory=list)
    scale: Tensor = field(default_factory=lambda: torch.empty(0))  # [B, 3] of uint8 pixels
    shift: Tensor = field(default_factory=lambda: torch.empty(0))

    def fill(
        self, programs: Sequence[Programs], rows: Sequence[Tensor], mean: Tensor, std: Tensor
    ) -> None:
        """Decide everything about a batch, once; mean and std of values in [0, 1], [B, 3]."""
        self.scale, self.shift = 1.0 / (255.0 * std), -(mean / std)
        self.samples = len(programs)
        self.before = np.stack([p.before for p in programs], axis=1)  # [targets, B]
        self.after = np.stack([p.after for p in programs], axis=1)
        self.rows = np.array([row.data_ptr() for row in rows], dtype=np.int64)
        self.starts = [bool(line.any()) for line in self.before]
        self.ends = [bool(line.any()) for line in self.after]
        self.keep = np.stack([p.keep for p in programs]).max(axis=0).tolist()

    def run(
        self,
        x: Tensor,
        *,
        last: int | None = None,
        next_: int | None = None,
        codes: Tensor | None = None,
        stream: Tensor | None = None,
        out: Tensor | None = None,
        between: int = NOTHING,
        norm: "Norm | None" = None,
    ) -> Tensor | None:
        """One pass over tokens [B, N, width], contiguous; see kernels.cpp.

        Args:
            x: out of target `last`, changed in place.
            last: whose adapters end here.
            next_: whose adapters begin here.
            codes: what `last` kept when it began.
            stream: to which x is added, in place.
            out: where the result goes; x itself by default.
            between: nothing, a norm or a GELU.
            norm: the norm.

        Returns:
            what `next_` keeps, [B, N, keep], if anything.
        """
        samples, tokens, width = x.shape
        out = x if out is None else out
        given = (x, out) if stream is None else (x, out, stream)
        assert all(t.is_contiguous() and t.dtype == self.kernel.dtype for t in given)
        stage = Stage(samples=samples, tokens=tokens, width=width, between=between)
        stage.x, stage.out = x.data_ptr(), out.data_ptr()
        if stream is not None:
            stage.stream = stream.data_ptr()
        if norm is not None:
            stage.weight, stage.bias = norm.weight.data_ptr(), norm.bias.data_ptr()
            stage.eps = norm.eps
        stage.rows = self.rows.ctypes.data
        if last is not None and self.ends[last]:
            stage.after = self.after[last].ctypes.data
            if codes is not None:
                stage.codes_in, stage.in_width = codes.data_ptr(), codes.shape[2]
        kept = None
        if next_ is not None and self.starts[next_]:
            stage.before = self.before[next_].ctypes.data
            if self.keep[next_]:
                kept = x.new_empty(samples, tokens, self.keep[next_])
                stage.codes_out, stage.out_width = kept.data_ptr(), kept.shape[2]
        self.kernel.stage(ctypes.byref(stage))
        return kept

    def attention(self, y: Tensor, heads: int, scale: float, queries: int) -> Tensor:
        """Softmax attention of the first `queries` tokens: [B, N, 3·d] → [B, queries, d]."""
        samples, tokens, width = y.shape
        out = y.new_empty(samples, queries, width // 3)
        call = Attention(samples=samples, tokens=tokens, heads=heads, queries=queries)
        call.width, call.scale = width // 3 // heads, scale
        call.qkv, call.out = y.data_ptr(), out.data_ptr()
        self.kernel.attention(ctypes.byref(call))
        return out

    def pixels(self, images: Tensor, patch: int = 0) -> Tensor:
        """Normalise uint8 [B, 3, H, W]: the same shape, or [B, patches, 3 · patch · patch]."""
        samples, channels, height, width = images.shape
        shape = tuple(images.shape)
        if patch:
            shape = (samples, (height // patch) * (width // patch), channels * patch * patch)
        out = torch.empty(shape, dtype=self.kernel.dtype)
        call = Pixels(samples=samples, height=height, width=width, patch=patch)
        call.pixels, call.out = images.data_ptr(), out.data_ptr()
        call.scale, call.shift = self.scale.data_ptr(), self.shift.data_ptr()
        self.kernel.pixels(ctypes.byref(call))
        return out


@dataclass(frozen=True, slots=True)
class Norm:
    """A LayerNorm's numbers as the kernel reads them: float32."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> "Norm":
        """From a LayerNorm, with or without affine terms."""
        width = norm.normalized_shape[0]
        weight, bias = (norm._parameters[name] for name in ("weight", "bias"))  # noqa: SLF001 (None without)
        return cls(
            torch.ones(width) if weight is None else weight.detach().float().contiguous(),
            torch.zeros(width) if bias is None else bias.detach().float().contiguous(),
            norm.eps,
        )
