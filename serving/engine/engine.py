"""The engine: pixels and prepared adapters in, logits out. Knows no task, no store and no queue."""

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone
from adapters_store.methods.table import lower
from serving.engine import native
from serving.engine.banks import Banks
from serving.engine.forms import OWN, Form, attentions, candidates, usual
from serving.engine.forward import Forward, Logits, NativeForward, TorchForward
from serving.engine.graphs import Graphs
from serving.engine.grouped import Ranks, worthwhile
from serving.engine.layout import Layout, flatten
from serving.engine.merged import Folded, fold
from serving.engine.prepared import Prepared
from serving.engine.program import Programs, compile_layout
from serving.engine.stand_in import EVERYWHERE, stand_in
from serving.engine.trunk import ATTENTION, fits, leads

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
_LAYOUTS_MOST: Final = 4096
_SAMPLES: Final = 16  # at most, to tell forms apart
_TURN_S: Final = 0.5  # of one measurement, where samples can be fewer
_GAIN: Final = 0.9  # a larger batch must cost less than this per image to be worth the wait


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
        """The smallest size at which an image costs about the least: more only waits longer."""
        least = min(cost / size for size, cost in self.seconds)
        return next(size for size, cost in self.seconds if cost / size * _GAIN <= least)


class Engine:
    """One frozen network on one device. `run` is for one thread; `lane()` makes one for another."""

    def __init__(
        self,
        backbone: Backbone,
        dtype: str = "fp32",
        device: str = "cpu",
        *,
        threads: int | None = None,
        banked: bool | None = None,
    ) -> None:
        """Cast and place a copy of the weights; `backbone` itself stays pristine.

        Args:
            backbone: fp32 weights, on the CPU.
            dtype: fp32 or bf16.
            device: as torch names it.
            threads: on the CPU; torch's own number by default.
            banked: compute over banks, as accelerators do by default; on the CPU it is for tests.
        """
        self.spec = backbone.spec
        self.dtype, self.device = DTYPES[dtype], _device(device)
        self.threads = threads or torch.get_num_threads()
        if self.device.type == "cuda" and self.dtype == torch.float32:
            _in_full()
        shares = self.dtype == torch.float32 and self.device.type == "cpu"
        net = backbone.net if shares else copy.deepcopy(backbone.net)
        self._pristine, self._net = backbone, net.to(self.device, self.dtype)
        self._sizes = {t.path: (t.outputs, t.inputs) for t in self.spec.by_path().values()}
        self._layouts: dict[Layout, tuple[Layout, Programs | None]] = {}  # one object for equals
        self._lock = threading.Lock()  # guards the layouts
        banked = self.device.type != "cpu" if banked is None else banked
        self._banks = Banks(self.device, self.dtype) if banked else None
        self._ranks: Ranks = frozenset()  # for which `calibrate` finds the grouped kernel faster
        self.kernel = self._native()
        self._nothing = self._compile(Layout((), 0))
        threads = self.threads if self.kernel else 1
        self.form = Form(attention=OWN) if banked else usual(threads, self._attentions()[0])
        self._lanes: WeakSet[Lane] = WeakSet()
        self.run = self.lane()

    def _native(self) -> native.Kernel | None:
        """The kernel, where there is one and it can do every target of this network."""
        odd = any(t.inputs % 2 for t in self.spec.targets)
        if self._banks is not None or self.device.type != "cpu":
            return None
        if odd and self.dtype == torch.bfloat16:
            return None
        return native.load(self.dtype)

    def _compile(self, layout: Layout) -> Programs | None:
        if self.kernel is None:
            return None
        outputs = {path: size[0] for path, size in self._sizes.items()}
        return compile_layout(layout, outputs, leads(self._net), self.dtype)

    def prepare(self, adapter: Adapter) -> Prepared:
        """Lower and lay out an admitted adapter for this engine, in host memory."""
        even = self.kernel is not None and self.dtype == torch.bfloat16
        layout, row = flatten(lower(adapter, self.spec), self._sizes, self.dtype, even=even)
        with self._lock:
            if len(self._layouts) >= _LAYOUTS_MOST:
                self._layouts.clear()  # artifacts choose them; equal ones are then compared
            if layout not in self._layouts:
                self._layouts[layout] = layout, self._compile(layout)
            layout, programs = self._layouts[layout]
        preprocess = adapter.manifest.preprocess
        return Prepared(
            layout=layout,
            row=row if programs is None else programs.pack(row),
            weight=torch.from_numpy(np.array(adapter.head_weight)),
            bias=torch.from_numpy(np.array(adapter.head_bias)),
            mean=torch.tensor(preprocess.mean, dtype=torch.float32),
            std=torch.tensor(preprocess.std, dtype=torch.float32),
            programs=programs,
        )

    def place(self, prepared: Prepared) -> Prepared:
        """A prepared adapter as `run` wants it: on the device. What holds it, holds its place."""
        return prepared.to(self.device) if self._banks is None else self._banks.place(prepared)

    def fold(self, adapter: Adapter) -> Folded:
        """An admitted adapter in its own copies of the weights that it changes."""
        return fold(self._pristine, self._net, adapter, self.dtype, self.device)

    def lane(self) -> "Lane":
        """Another forward over the same weights, for another thread."""
        lane = Lane(self._forward, self.form, self.threads)
        self._lanes.add(lane)
        return lane

    def close(self) -> None:
        """End the threads of every lane."""
        for lane in list(self._lanes):
            lane.close()

    def _forward(self, net: nn.Module | None, attention: str) -> Forward:
        net, targets = self._net if net is None else net, list(self._sizes)
        if self.kernel is not None and self._nothing is not None:
            return NativeForward(net, targets, self.kernel, attention, self._nothing)
        if self._banks is not None:
            return Graphs(net, targets, self.device, self.dtype, self._ranks)
        return TorchForward(net, targets, self.device, self.dtype)

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
            programs=self._nothing,
        ).to(self.device)

    def calibrate(self, batch_max: int, runs: int = 2) -> CostCurve:
        """Choose the fastest form, then measure the cost curve of the bare backbone.

        Sizes double up to `batch_max`. The attention's form is chosen first, then the pieces: by
        an adapter with operators at every linear, since these pass over all activations, and small
        pieces are still in the cache then.
        """
        if self._banks is None:
            self._time(self.run, 1)
            wanted = int(_TURN_S / self._time(self.run, 1))  # slow networks tell forms apart early
            few = min(batch_max, _SAMPLES, max(wanted, 2 * self.threads))
            attention = self._fastest(attentions(self.form, self._attentions()), few, runs)
            heavy = self.place(self.prepare(stand_in(self.spec, EVERYWHERE)))
            forms = candidates(self.threads, few, attention.attention)
            self.form = self._fastest(forms, few, runs, heavy)
            self.run = self.lane()
        else:
            self._ranks = self._worthwhile(batch_max)
            self.run = self.lane()
        curve, size = [], 1
        self._time(self.run, size)
        while True:
            seconds = self._time(self.run, size)
            if seconds < _TURN_S:
                seconds = min(seconds, *(self._time(self.run, size) for _ in range(runs)))
            curve.append((size, seconds))
            if size >= batch_max:
                return CostCurve(tuple(curve))
            size = min(2 * size, batch_max)

    def _worthwhile(self, samples: int) -> Ranks:
        """Ranks for which the grouped kernel pays on tokens as wide as most targets' inputs."""
        widths = sorted(t.inputs for t in self.spec.targets)
        tokens = (self.spec.input_size[0] // 16) * (self.spec.input_size[1] // 16)
        return worthwhile(self.device, self.dtype, widths[len(widths) // 2], tokens, samples)

    def _fastest(
        self, forms: Sequence[Form], samples: int, runs: int, adapter: Prepared | None = None
    ) -> Form:
        """The least of several turns counts: whatever else runs here can only add to a time."""
        if len(forms) == 1:
            return forms[0]
        lanes = {form: Lane(self._forward, form, self.threads) for form in forms}
        least = dict.fromkeys(forms, float("inf"))
        for turn in range(runs + 1):
            for form, lane in lanes.items():
                some = samples if turn else 1  # the first turn warms up
                took = self._time(lane, some, adapter)
                least[form] = min(least[form], took) if turn else float("inf")
        return min(forms, key=lambda form: least[form])

    def _attentions(self) -> list[str]:
        return list(ATTENTION) if self.kernel is not None and fits(self._net) else [OWN]

    def _time(self, lane: "Lane", samples: int, adapter: Prepared | None = None) -> float:
        pixels = np.zeros((samples, 3, *self.spec.input_size), dtype=np.uint8)
        adapters = [adapter or self.identity()] * samples
        began = time.perf_counter()
        lane(pixels, adapters)
        return time.perf_counter() - began


def _device(name: str) -> torch.device:
    """As tensors name it: "cuda" is one of several."""
    device = torch.device(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _in_full() -> None:
    """Have fp32 computed in fp32, in the whole process; convolutions are in TF32 by default.

    Its ten bits of mantissa take honest answers further off than fp32's tolerance, 1e-3, allows.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


class Lane:
    """A callable forward: any adapters in one batch, those with their own weights apart."""

    def __init__(
        self, make: Callable[[nn.Module | None, str], Forward], form: Form, threads: int
    ) -> None:
        self._make, self._form, self._threads = make, form, threads
        self._idle = deque(_Desk(make, form.attention) for _ in range(form.workers))
        self._pool = ThreadPoolExecutor(
            form.workers, "rootstock-engine", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._mine = threading.local()

    def __call__(self, pixels: NDArray[np.uint8], adapters: Sequence[Prepared | Folded]) -> Logits:
        """Logits of each sample, in order.

        Args:
            pixels: uint8 [B, 3, H, W].
            adapters: of each sample, on the engine's device.

        Returns:
            float32 [labels of that adapter], one a sample.
        """
        nets = [a.net if isinstance(a, Folded) else None for a in adapters]
        heads = [a.head if isinstance(a, Folded) else a for a in adapters]
        pieces = self._form.pieces(nets)

        def compute(piece: list[int]) -> Logits:
            desk = self._idle.pop()
            try:
                forward = desk.forward(nets[piece[0]])
                mine = pixels if len(piece) == len(pixels) else pixels[piece]  # a copy
                return forward(mine, [heads[i] for i in piece])
            finally:
                self._idle.append(desk)

        if self._form.workers > 1 and len(pieces) > 1:
            running = [self._pool.submit(compute, piece) for piece in pieces]
            wait(running)  # all of them: none may still read rows when the batch is over
            found = [future.result() for future in running]
        else:
            self._use_all_threads()
            found = [compute(piece) for piece in pieces]
        answers: Logits = [np.empty(0, np.float32)] * len(adapters)
        for piece, logits in zip(pieces, found, strict=True):
            for i, row in zip(piece, logits, strict=True):
                answers[i] = row
        return answers

    def close(self) -> None:
        """End its threads; a closed lane computes nothing more."""
        self._pool.shutdown(wait=True)

    def _use_all_threads(self) -> None:
        """Torch counts threads per calling thread; the pool's have told it 1."""
        if not hasattr(self._mine, "told"):
            torch.set_num_threads(self._threads)
            self._mine.told = True


class _Desk:
    """What one thread at a time works with: a forward of the frozen network, and of folded ones."""

    def __init__(self, make: Callable[[nn.Module | None, str], Forward], attention: str) -> None:
        self._make, self._attention = make, attention
        self._frozen = make(None, attention)
        self._own: WeakKeyDictionary[nn.Module, Forward] = WeakKeyDictionary()

    def forward(self, net: nn.Module | None) -> Forward:
        if net is None:
            return self._frozen
        if net not in self._own:
            self._own[net] = self._make(net, self._attention)
        return self._own[net]
