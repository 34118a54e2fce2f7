"""The blocks of a plain vision transformer with nothing but kernel calls between frozen linears.

Knows timm's modules and the kernel's stages, no adapter. A network whose blocks hold anything else
than what is written out here keeps timm's own forward, target by target.
"""

from collections.abc import Sequence
from typing import Final

import torch
from timm.layers import Attention, Mlp, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from serving.engine.batch import Batch, Norm
from serving.engine.native import GELU, NORM

_LANES: Final = 16
PATCHES: Final = "patch_embed.proj"
_PARTS: Final = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def leads(net: nn.Module) -> dict[str, str]:
    """Target → the norm right before it, for networks that get a trunk; else nothing."""
    if not fits(net):
        return {}
    found = {}
    for i in range(len(net.blocks)):  # type: ignore[arg-type]
        found[f"blocks.{i}.attn.qkv"] = f"blocks.{i}.norm1"
        found[f"blocks.{i}.mlp.fc1"] = f"blocks.{i}.norm2"
    return found


def fits(net: nn.Module) -> bool:
    """Whether the network is made of what the trunk computes, and of nothing else."""
    return (
        type(net) is VisionTransformer
        and isinstance(net.norm, nn.LayerNorm | nn.Identity)
        and not net.dynamic_img_size
        and all(
            isinstance(block, Block) and _plain(block)
            for block in net.get_submodule("blocks").children()
        )
    )


def _plain(block: Block) -> bool:
    attn, mlp = block.attn, block.mlp
    if type(block) is not Block or type(attn) is not Attention or type(mlp) is not Mlp:
        return False
    absent = (block.ls1, block.ls2, attn.q_norm, attn.k_norm, attn.norm, mlp.norm)
    widths = (mlp.fc1.in_features, mlp.fc1.out_features, attn.qkv.in_features, attn.head_dim)
    return (
        all(isinstance(part, nn.Identity) for part in absent)
        and attn.gate is None
        and isinstance(block.norm1, nn.LayerNorm)
        and isinstance(block.norm2, nn.LayerNorm)
        and isinstance(mlp.act, nn.GELU)
        and mlp.act.approximate == "none"
        and isinstance(mlp.fc1, nn.Linear)
        and all(width % _LANES == 0 for width in widths)
    )


class Trunk(nn.Module):
    """All blocks and the norm behind them."""

    def __init__(
        self, net: VisionTransformer, targets: Sequence[str], batch: Batch, attention: str
    ) -> None:
        super().__init__()
        number = {path: i for i, path in enumerate(targets)}
        self.batch, self.attention = batch, ATTENTION[attention]
        self.norm = Norm.of(net.norm) if isinstance(net.norm, nn.LayerNorm) else None
        self.final = number.get("norm") if self.norm else None
        # Heads read one token: what the last block would do to the others is left out.
        self.one = net.global_pool == "token" and net.attn_pool is None
        self.parts = []
        for i, block in enumerate(net.blocks):
            assert isinstance(block, Block)
            numbers = [number[f"blocks.{i}.{part}"] for part in _PARTS]
            norms = (Norm.of(block.norm1), Norm.of(block.norm2))
            self.parts.append((block, norms, numbers))

    @staticmethod
    def install(net: nn.Module, targets: Sequence[str], batch: Batch, attention: str) -> set[str]:
        """Put a trunk in the place of the blocks, if they fit; the targets that it then serves."""
        if not fits(net):
            return set()
        assert isinstance(net, VisionTransformer)
        trunk = Trunk(net, targets, batch, attention)
        net.blocks, net.norm = nn.Sequential(trunk), nn.Identity()
        inside = {path for path in targets if path.startswith("blocks.") or path == "norm"}
        if _plain_patches(net.patch_embed):
            at = targets.index(PATCHES) if PATCHES in targets else None
            net.patch_embed = Patches(net.patch_embed.proj, at, batch)
            inside.add(PATCHES)
        return inside

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, d] in, tokens out; one token where heads read only that."""
        batch = self.batch
        x = x.contiguous()
        h = torch.empty_like(x)
        _, (norm, _), (_, qkv, *_) = self.parts[0]
        codes = batch.run(x, next_=qkv, out=h, between=NORM, norm=norm)
        for i, (block, (_, norm2), (_, qkv, proj, _, fc1, fc2)) in enumerate(self.parts):
            attn, mlp, last = block.attn, block.mlp, i + 1 == len(self.parts)
            y = F.linear(h, attn.qkv.weight, attn.qkv.bias)
            if batch.ends[qkv]:
                batch.run(y, last=qkv, codes=codes)
            y = self.attention(batch, y, attn, 1 if last and self.one else y.shape[1])
            if last and self.one:
                x = x[:, :1].contiguous()
            codes = batch.run(y, next_=proj) if batch.starts[proj] else None
            z = F.linear(y, attn.proj.weight, attn.proj.bias)
            h = torch.empty_like(z)
            codes = batch.run(
                z, last=proj, codes=codes, stream=x, between=NORM, norm=norm2, next_=fc1, out=h
            )
            y = F.linear(h, mlp.fc1.weight, mlp.fc1.bias)
            codes = batch.run(y, last=fc1, codes=codes, between=GELU, next_=fc2)
            z = F.linear(y, mlp.fc2.weight, mlp.fc2.bias)
            if last:
                return self._end(x, z, fc2, codes)
            _, (norm, _), (_, after, *_) = self.parts[i + 1]
            codes = batch.run(
                z, last=fc2, codes=codes, stream=x, between=NORM, norm=norm, next_=after, out=h
            )
        raise AssertionError("a network without blocks")

    def _end(self, x: Tensor, z: Tensor, fc2: int, codes: Tensor | None) -> Tensor:
        if self.norm is None:
            self.batch.run(z, last=fc2, codes=codes, stream=x, out=z)
            return x
        self.batch.run(z, last=fc2, codes=codes, stream=x, between=NORM, norm=self.norm)
        if self.final is not None and self.batch.ends[self.final]:
            self.batch.run(z, last=self.final)
        return z


class Patches(nn.Module):
    """The patch embedding as one product: pixels are normalised straight into patches."""

    def __init__(self, proj: nn.Conv2d, target: int | None, batch: Batch) -> None:
        super().__init__()
        self.weight, self.bias = proj.weight.flatten(1), proj.bias
        self.patch, self.target, self.batch = proj.kernel_size[0], target, batch

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] → tokens [B, patches, d]."""
        y = F.linear(self.batch.pixels(images, self.patch), self.weight, self.bias)
        if self.target is not None and self.batch.ends[self.target]:
            self.batch.run(y, last=self.target)
        return y


def _plain_patches(embed: nn.Module) -> bool:
    proj = getattr(embed, "proj", None)
    return bool(
        type(embed) is PatchEmbed
        and isinstance(proj, nn.Conv2d)
        and proj.in_channels == 3
        and proj.kernel_size == proj.stride
        and proj.kernel_size[0] == proj.kernel_size[1]
        and isinstance(embed.norm, nn.Identity)
        and embed.flatten
        and not embed.dynamic_img_pad
    )


def _heads(y: Tensor, attn: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, [B, heads, N, head width] each, without copying."""
    b, n, _ = y.shape
    q, k, v = y.view(b, n, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def native(batch: Batch, y: Tensor, attn: Attention, queries: int) -> Tensor:
    """Attention by the kernel: [B, N, 3·d] → [B, queries, d]."""
    return batch.attention(y, attn.num_heads, attn.scale, queries)


def explicit(_: Batch, y: Tensor, attn: Attention, queries: int) -> Tensor:
    """Attention by two products and a softmax."""
    q, k, v = _heads(y, attn)
    weights = (q[:, :, :queries] * attn.scale @ k.transpose(-2, -1)).softmax(dim=-1)
    out: Tensor = weights @ v
    return out.transpose(1, 2).reshape(y.shape[0], -1, attn.attn_dim)


def fused(_: Batch, y: Tensor, attn: Attention, queries: int) -> Tensor:
    """Attention by torch's own fused product."""
    q, k, v = _heads(y, attn)
    out = F.scaled_dot_product_attention(q[:, :, :queries], k, v)
    return out.transpose(1, 2).reshape(y.shape[0], -1, attn.attn_dim)


ATTENTION: Final = {"native": native, "explicit": explicit, "fused": fused}
