"""The frozen network as training sees it: placed on a device, its sites attached. Knows no data.

Everything here alters twins. The backbone's own modules, weights and modes stay as they are.
"""

import copy
import re
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adapters_store import plain
from adapters_store.backbone import Backbone, features
from adapters_store.manifest import Preprocess
from adapters_store.methods.protocol import AdapterModule
from adapters_store.pixels import normalise
from training.recipe import Precision

_RESIDUAL: Final = re.compile(r"(.+)\.drop_path\d*")  # timm's place for stochastic depth in a block
_NATIVE: Final = ("amx_bf16", "avx512_bf16")  # without one of these, bf16 is slower than fp32


class Trunk:
    """A network that runs an adapter module's sites in training, and gives features."""

    def __init__(
        self,
        backbone: Backbone,
        module: AdapterModule,
        preprocess: Preprocess,
        *,
        drop_path: float,
        precision: Precision,
        recompute: bool = False,
    ) -> None:
        """Attach the sites to a twin; `backbone` and `module` are on the same device."""
        net = plain.sited(backbone.net, module)
        paths = stochastic_depth(net, drop_path)
        self._training: tuple[nn.Module, ...] = (module, *paths)
        self._device = next(net.parameters()).device
        self._mean = torch.tensor(preprocess.mean, device=self._device)
        self._std = torch.tensor(preprocess.std, device=self._device)
        self._low = precision == "bf16"
        if self._low:
            cast_once(net)
        if self._device.type == "cpu":
            # torch's fused attention is the slower one backwards on CPUs: half a step in bf16.
            for part in net.modules():
                if hasattr(part, "fused_attn"):
                    part.fused_attn = False  # type: ignore[assignment]
        if recompute:
            for path in dict.fromkeys(block for _, block in residuals(net)):
                net.set_submodule(path, Recomputed(net.get_submodule(path)))
        self._net = net

    def train(self, *, on: bool) -> None:
        """Dropout inside sites and stochastic depth on or off; nothing else has a mode."""
        for part in self._training:
            part.train(on)

    def features(self, images: NDArray[np.uint8] | Tensor) -> Tensor:
        """uint8 [B, 3, H, W] → float32 [B, features] on the trunk's device."""
        bytes_ = images if isinstance(images, Tensor) else torch.from_numpy(images)
        pictures = normalise(bytes_.to(self._device), self._mean, self._std)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._low):
            vectors = features(self._net, pictures)
        return vectors.to(torch.float32)


class Recomputed(nn.Module):
    """A block whose activations are dropped on the way forward and made again on the way back."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *given: Any, **named: Any) -> Any:
        """What the block gives; what it draws at random is drawn the same the second time."""
        return checkpoint(self.block, *given, use_reentrant=False, **named)


def cast_once(net: nn.Module) -> None:
    """Keep the frozen weights of a twin's products in bf16, as autocast would make them each step.

    The bits are the same: autocast caches none but trained weights.
    """
    for path, part in list(net.named_modules()):
        weights = dict(part.named_parameters(recurse=False))
        frozen = not any(weight.requires_grad for weight in weights.values())
        if isinstance(part, nn.Linear | nn.Conv2d) and frozen:
            # A module beneath a site is the pristine network's own: it is copied, not altered.
            low = copy.deepcopy(part, {id(weight): weight for weight in weights.values()})
            for name, weight in weights.items():
                half = nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
                low.register_parameter(name, half)
            net.set_submodule(path, low)


def residuals(net: nn.Module) -> list[tuple[str, str]]:
    """Where stochastic depth acts, and in which block: pairs of module paths."""
    return [(path, m[1]) for path, _ in net.named_modules() if (m := _RESIDUAL.fullmatch(path))]


def stochastic_depth(net: nn.Module, rate: float) -> tuple[nn.Module, ...]:
    """Give every block of a twin its own chance of being left out, linear from 0 to `rate`.

    The new modules are returned in eval mode: they do nothing until they are set to train.
    """
    places = residuals(net)
    blocks = list(dict.fromkeys(block for _, block in places))
    layers: list[nn.Module] = []
    for path, block in places if rate > 0 else ():
        chance = rate * blocks.index(block) / max(1, len(blocks) - 1)
        layers.append(DropPath(chance).eval())
        net.set_submodule(path, layers[-1])
    return tuple(layers)


def placed(backbone: Backbone, device: torch.device) -> Backbone:
    """The backbone itself where it is already on the device, else a copy of it there."""
    if next(backbone.net.parameters()).device.type == device.type:
        return backbone
    return Backbone(copy.deepcopy(backbone.net).to(device), backbone.spec)


def default_device() -> torch.device:
    """An accelerator where torch has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native_precision(device: torch.device) -> Precision:
    """bf16 where the device computes in it faster than in fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    abilities = torch.cpu.get_capabilities()
    return "bf16" if any(abilities.get(name) for name in _NATIVE) else "fp32"
