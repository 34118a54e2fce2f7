"""The mixed lane through the native kernel: any adapters in one batch, one pass over the tokens.

Knows programs and addresses, not methods, slots or tasks. Samples stay in their order: the kernel
looks up each sample's own program and row. Plain vision transformers get a trunk of their own, in
which what stands between two frozen linears (the rest of the last target, the residual stream, a
norm or a GELU, the beginning of the next target) is one call; other families call it around each
target.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters_store.backbone import features, twin
from serving.engine.batch import Batch
from serving.engine.native import Kernel
from serving.engine.program import Programs
from serving.engine.trunk import Patches, Trunk


class NativeLinear(nn.Module):
    """A frozen target, every sample through its own adapter."""

    def __init__(self, linear: nn.Linear, target: int, batch: Batch) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.target, self.batch = target, batch

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B·k, …, in] → [B·k, …, out]."""
        batch, codes = self.batch, None
        if batch.starts[self.target]:
            tokens = x.reshape(batch.samples, -1, x.shape[-1]).contiguous()  # windows stay together
            out = torch.empty_like(tokens)  # the caller may still need x
            codes = batch.run(tokens, next_=self.target, out=out)
            x = out.view(x.shape)
        y = F.linear(x, self.weight, self.bias)
        if batch.ends[self.target]:
            tokens = y.view(batch.samples, -1, y.shape[-1])
            batch.run(tokens, last=self.target, codes=codes)
        return y


class NativeAffine(nn.Module):
    """A frozen LayerNorm or convolution with each sample's own affine terms behind it."""

    def __init__(self, frozen: nn.Module, target: int, batch: Batch) -> None:
        super().__init__()
        self.frozen, self.target, self.batch = frozen, target, batch
        self.channels_first = isinstance(frozen, nn.Conv2d)

    def forward(self, x: Tensor) -> Tensor:
        """[B, …, C] or, behind a convolution, [B, C, …]."""
        y: Tensor = self.frozen(x)
        if not self.batch.ends[self.target]:
            return y
        last = y.movedim(1, -1) if self.channels_first else y
        tokens = last.reshape(self.batch.samples, -1, last.shape[-1]).contiguous()
        tokens = tokens.clone() if tokens.data_ptr() == y.data_ptr() else tokens
        self.batch.run(tokens, last=self.target)
        return tokens.mT.reshape(y.shape) if self.channels_first else tokens.view(y.shape)


class NativeLane:
    """A twin of the network whose targets act per sample. One batch at a time, one thread."""

    def __init__(
        self, net: nn.Module, targets: Sequence[str], kernel: Kernel, attention: str
    ) -> None:
        """Replace every target; `net` itself stays as it is."""
        self.batch = Batch(kernel)
        self.net = twin(net)
        inside = Trunk.install(self.net, targets, self.batch, attention)
        for i, path in enumerate(targets):
            if path in inside:
                continue
            frozen = self.net.get_submodule(path)
            kind = NativeLinear if isinstance(frozen, nn.Linear) else NativeAffine
            self.net.set_submodule(path, kind(frozen, i, self.batch))  # type: ignore[arg-type]

    def features(
        self,
        images: Tensor,
        programs: Sequence[Programs],
        rows: Sequence[Tensor],
        mean: Tensor,
        std: Tensor,
    ) -> Tensor:
        """uint8 [B, 3, H, W] → [B, features]; sample i uses row i, packed for program i."""
        self.batch.fill(programs, rows, mean, std)
        raw = isinstance(getattr(self.net, "patch_embed", None), Patches)
        return features(self.net, images if raw else self.batch.pixels(images))
