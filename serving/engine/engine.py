"""The engine: pixels and prepared adapters in, logits out. Knows no task, no store and no queue."""

import copy
import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone
from adapters_store.methods.table import lower
from adapters_store.pixels import normalise
from serving.engine.lane import MixedLane
from serving.engine.layout import Layout, flatten

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
_LAYOUTS_MOST: Final = 4096
_GAIN: Final = 0.97  # a doubled batch must cost less than this per image to be worth the wait


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An adapter as the engine executes it, in host memory."""

    layout: Layout
    row: Tensor  # [layout.size] in the engine's dtype
    weight: Tensor  # head, float32 [labels, features]
    bias: Tensor  # float32 [labels]
    mean: Tensor  # float32 [3], of inputs in [0, 1]
    std: Tensor  # float32 [3]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        return sum(
            t.numel() * t.element_size()
            for t in (self.row, self.weight, self.bias, self.mean, self.std)
        )

    def checksum(self) -> str:
        """Sha256 of the row and head, wherever they are."""
        proof = hashlib.sha256()
        for t in (self.row, self.weight, self.bias):
            proof.update(t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return proof.hexdigest()

    def to(self, device: torch.device) -> "Prepared":
        """A copy on the device; itself where it is there already."""
        return Prepared(
            layout=self.layout,
            row=self.row.to(device),
            weight=self.weight.to(device),
            bias=self.bias.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
        )


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Measured seconds of a forward by batch size."""

    seconds: tuple[tuple[int, float], ...]  # (samples, seconds), ascending

    def of(self, samples: int) -> float:
        """Seconds for so many samples: of the next larger size that was measured."""
        for size, cost in self.seconds:
            if samples <= size:
                return cost
        size, cost = self.seconds[-1]
        return cost * samples / size

    def best(self) -> int:
        """The largest size that still pays: each doubling must make an image cheaper."""
        best, price = 1, float("inf")
        for size, cost in self.seconds:
            if cost / size >= price * _GAIN:
                break
            best, price = size, cost / size
        return best


class Engine:
    """One frozen network on one device. `run` is for one thread; `lane()` makes one for another."""

    def __init__(self, backbone: Backbone, dtype: str = "fp32", device: str = "cpu") -> None:
        """Cast and place a copy of the weights; `backbone` itself stays pristine."""
        self.spec = backbone.spec
        self.dtype, self.device = DTYPES[dtype], torch.device(device)
        shares = self.dtype == torch.float32 and self.device.type == "cpu"
        net = backbone.net if shares else copy.deepcopy(backbone.net)
        self._net = net.to(self.device, self.dtype)
        self._sizes = {t.path: (t.outputs, t.inputs) for t in self.spec.by_path().values()}
        self._layouts: dict[Layout, Layout] = {}  # one object for equal layouts: compared by id
        self.run = self.lane()

    def prepare(self, adapter: Adapter) -> Prepared:
        """Lower and lay out an admitted adapter for this engine, in host memory."""
        layout, row = flatten(lower(adapter, self.spec), self._sizes, self.dtype, expanded=False)
        if len(self._layouts) >= _LAYOUTS_MOST:
            self._layouts.clear()  # artifacts choose them; equal ones are then found by comparing
        preprocess = adapter.manifest.preprocess
        return Prepared(
            layout=self._layouts.setdefault(layout, layout),
            row=row,
            weight=torch.from_numpy(np.array(adapter.head_weight)),
            bias=torch.from_numpy(np.array(adapter.head_bias)),
            mean=torch.tensor(preprocess.mean, dtype=torch.float32),
            std=torch.tensor(preprocess.std, dtype=torch.float32),
        )

    def lane(self) -> "Lane":
        """Another forward over the same weights, for another thread."""
        return Lane(MixedLane(self._net, list(self._sizes)), self.device, self.dtype)

    def identity(self) -> Prepared:
        """Slot 0: the bare backbone, its features as they are."""
        n = self.spec.features
        return Prepared(
            layout=Layout((), 0),
            row=torch.empty(0, dtype=self.dtype),
            weight=torch.eye(n),
            bias=torch.zeros(n),
            mean=torch.tensor(self.spec.mean),
            std=torch.tensor(self.spec.std),
        ).to(self.device)

    def calibrate(self, batch_max: int, runs: int = 3) -> CostCurve:
        """Measure the cost curve on the bare backbone, doubling sizes up to `batch_max`."""
        bare, curve, size = self.identity(), [], 1
        while True:
            pixels = np.zeros((size, 3, *self.spec.input_size), dtype=np.uint8)
            samples = [bare] * size
            self.run(pixels, samples)
            times = []
            for _ in range(runs):
                began = time.perf_counter()
                self.run(pixels, samples)
                times.append(time.perf_counter() - began)
            curve.append((size, statistics.median(times)))
            if size >= batch_max:
                return CostCurve(tuple(curve))
            size = min(2 * size, batch_max)


class Lane:
    """A callable forward: any adapters in one batch."""

    def __init__(self, mixed: MixedLane, device: torch.device, dtype: torch.dtype) -> None:
        self._mixed, self._device, self._dtype = mixed, device, dtype

    def __call__(
        self, pixels: NDArray[np.uint8], adapters: Sequence[Prepared]
    ) -> list[NDArray[np.float32]]:
        """Logits of each sample, in order.

        Args:
            pixels: uint8 [B, 3, H, W].
            adapters: of each sample, on the engine's device.

        Returns:
            float32 [labels of that adapter], one a sample.
        """
        order = sorted(range(len(adapters)), key=_by_layout_then_adapter(adapters))
        sorted_adapters = [adapters[i] for i in order]
        with torch.inference_mode():
            images = torch.from_numpy(pixels[order]).to(self._device)
            mean = torch.stack([a.mean for a in sorted_adapters])
            std = torch.stack([a.std for a in sorted_adapters])
            vectors = self._mixed.features(
                normalise(images, mean, std).to(self._dtype),
                [a.layout for a in sorted_adapters],
                [a.row for a in sorted_adapters],
            ).to(torch.float32)
            answers: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(order)
            start = 0
            while start < len(order):
                stop, head = start, sorted_adapters[start]
                while stop < len(order) and sorted_adapters[stop] is head:
                    stop += 1
                logits = F.linear(vectors[start:stop], head.weight, head.bias).cpu().numpy()
                for i, row in zip(order[start:stop], logits, strict=True):
                    answers[i] = row
                start = stop
        return answers


def _by_layout_then_adapter(adapters: Sequence[Prepared]) -> Callable[[int], tuple[int, int]]:
    """A sort key that makes equal layouts neighbours, and equal adapters among them."""
    return lambda i: (id(adapters[i].layout), id(adapters[i]))
