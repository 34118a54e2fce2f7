"""The bare backbone with one linear head, in every form that could be the fastest.

All do the same work: uint8 pixels, mean and std, features, one head. Knows no adapter's method.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from adapters_store.adapter import Adapter
from adapters_store.backbone import features
from adapters_store.pixels import normalise
from rootstock.bench.setting import Setting, Tell
from rootstock.bench.turns import Turn, speed, take_turns
from serving.engine.engine import DTYPES

Forward = Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]  # [B, 3, H, W] → logits

T = TypeVar("T")

CHUNK: Final = 8  # samples; a cache holds the activations of so many
_WARM_UP: Final = 5


class Timm:
    """A timm network as timm runs it, and heads. One thread at a time."""

    def __init__(self, setting: Setting, net: nn.Module | None = None) -> None:
        """Cast and place a copy of `net`; of the pristine network without one."""
        self.device, self.dtype = torch.device(setting.device), DTYPES[setting.dtype]
        whole = copy.deepcopy(setting.backbone.net if net is None else net)
        self.net = whole.to(self.device, self.dtype)
        spec, self.threads = setting.backbone.spec, setting.threads
        self.mean = torch.tensor(spec.mean, device=self.device)
        self.std = torch.tensor(spec.std, device=self.device)

    def images(self, pixels: NDArray[np.uint8]) -> Tensor:
        """What the network takes: normalised in float32, then cast."""
        torch.set_num_threads(self.threads)  # the engine may have told torch another number
        batch = torch.from_numpy(pixels).to(self.device)
        return normalise(batch, self.mean, self.std).to(self.dtype)

    def features(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Float32 [B, features]."""
        return features(self.net, self.images(pixels)).to(torch.float32)


class Head:
    """One adapter's classifier, on the device."""

    def __init__(self, adapter: Adapter, device: torch.device) -> None:
        self.weight = torch.from_numpy(np.array(adapter.head_weight)).to(device)
        self.bias = torch.from_numpy(np.array(adapter.head_bias)).to(device)

    def __call__(self, vectors: Tensor) -> list[NDArray[np.float32]]:
        """[n, features] → logits of each."""
        return list(F.linear(vectors, self.weight, self.bias).cpu().numpy())


def forms(setting: Setting, bare: Adapter, compiled: bool, tell: Tell) -> dict[str, Forward]:
    """Timm's eager default, timm compiled where asked for, and our engine with slot 0 alone.

    Args:
        setting: whose backbone.
        bare: an adapter that is nothing but a head.
        compiled: also try `torch.compile`; a failure is told and the form left out.
        tell: whom to tell.
    """
    slot = setting.placed(bare)
    whole: dict[str, Forward] = {"timm": _plain(Timm(setting), bare)}
    if compiled and (found := _compiled(setting, bare, tell)) is not None:
        whole["compiled"] = found
    whole["engine"] = lambda pixels: setting.engine.run(pixels, [slot] * len(pixels))
    return {**whole, **{f"{name}/{CHUNK}": chunked(f, CHUNK) for name, f in whole.items()}}


def fitting(found: Mapping[str, Forward], batch: int) -> dict[str, Forward]:
    """The forms that are not the same thing twice for a batch of this size."""
    return {n: f for n, f in found.items() if batch > CHUNK or not n.endswith(f"/{CHUNK}")}


def chunked(forward: Forward, size: int) -> Forward:
    """The same forward, a few samples at a time."""

    def run(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        starts = range(0, len(pixels), size)
        return [row for at in starts for row in forward(pixels[at : at + size])]

    return run


def fastest(found: Mapping[str, Forward], pixels: NDArray[np.uint8]) -> str:
    """The winner of a short tournament; one run each before it, uncounted."""
    for forward in found.values():
        forward(pixels)
    return winner(take_turns({n: bound(f, pixels) for n, f in found.items()}, _WARM_UP))


def winner(turns: Mapping[str, Sequence[Turn[T]]]) -> str:
    """The form that is furthest ahead of timm's, round by round."""
    return max(turns, key=lambda name: speed(turns["timm"], turns[name]).median)


def bound(forward: Forward, pixels: NDArray[np.uint8]) -> Callable[[], list[NDArray[np.float32]]]:
    """The forward of these pixels, as an arm."""
    return lambda: forward(pixels)


def _plain(timm: Timm, bare: Adapter) -> Forward:
    head = Head(bare, timm.device)

    def run(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            return head(timm.features(pixels))

    return run


def _compiled(setting: Setting, bare: Adapter, tell: Tell) -> Forward | None:
    timm = Timm(setting)
    head = Head(bare, timm.device)
    tell.doing("compiling the bare backbone")
    vectors = torch.compile(lambda images: features(timm.net, images), dynamic=False)

    def run(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            return head(vectors(timm.images(pixels)).to(torch.float32))

    try:
        run(np.zeros((1, 3, *setting.backbone.spec.input_size), np.uint8))
    except Exception as error:  # noqa: BLE001 (a compiler fails in its own ways)
        tell.note(f"torch.compile fails here, without it then: {str(error).splitlines()[0][:150]}")
        return None
    return run
