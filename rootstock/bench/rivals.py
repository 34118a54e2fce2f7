"""How else many tasks could share a machine: a model each, weights swapped in, PEFT's mixture.

Each answers a batch whose sample i wants adapter `wanted[i]`. Knows no engine of ours.
"""

import importlib
import os
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters_store import plain
from adapters_store.adapter import Adapter
from adapters_store.errors import RootstockError
from adapters_store.methods.table import lower
from adapters_store.normal_form import LinearForm, LowRank
from rootstock.bench.forms import Head, Timm
from rootstock.bench.setting import Setting

Batch = Callable[[NDArray[np.uint8], Sequence[int]], list[NDArray[np.float32]]]

_ROOM: Final = 0.5  # of the memory that is free may be taken by whole models


class RivalMissingError(RootstockError):
    """This arm cannot run here."""

    def __init__(self, system: str, reason: str) -> None:
        super().__init__(system, reason)
        self.system, self.reason = system, reason

    def __str__(self) -> str:
        return f"{self.system} is left out: {self.reason}"


class WholeModels:
    """A merged network for each adapter, and one more whose weights are swapped."""

    def __init__(self, setting: Setting, adapters: Sequence[Adapter]) -> None:
        """Build them all.

        Raises:
            RivalMissingError: they do not fit into half of the free memory.
        """
        self.base = Timm(setting)
        each = sum(p.numel() * p.element_size() for p in self.base.net.parameters())
        if len(adapters) * each > _ROOM * _free_bytes(self.base.device):
            reason = f"{len(adapters)} models of {each / 1e6:.0f} MB do not fit in memory"
            raise RivalMissingError("one full model a task", reason)
        self.heads = [Head(a, self.base.device) for a in adapters]
        self.models, self._swaps = [], []
        own = dict(self.base.net.named_parameters())
        for adapter in adapters:
            form = lower(adapter, setting.backbone.spec)
            model = Timm(setting, plain.merged(setting.backbone.net, form))
            theirs = dict(model.net.named_parameters())
            names = [f"{path}.{kind}" for path in form for kind in ("weight", "bias")]
            self.models.append(model)
            self._swaps.append([(own[n], theirs[n]) for n in names if n in theirs])

    def full(self, pixels: NDArray[np.uint8], wanted: Sequence[int]) -> list[NDArray[np.float32]]:
        """Each task's samples through its own model."""
        return self._by_task(pixels, wanted, lambda i: self.models[i])

    def swap(self, pixels: NDArray[np.uint8], wanted: Sequence[int]) -> list[NDArray[np.float32]]:
        """One network: each task's changed weights are copied in before its samples run."""

        def loaded(i: int) -> Timm:
            for mine, theirs in self._swaps[i]:
                mine.copy_(theirs)
            return self.base

        return self._by_task(pixels, wanted, loaded)

    def _by_task(
        self,
        pixels: NDArray[np.uint8],
        wanted: Sequence[int],
        model: Callable[[int], Timm],
    ) -> list[NDArray[np.float32]]:
        answers: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(wanted)
        with torch.inference_mode():
            for task in dict.fromkeys(wanted):
                mine = [i for i, w in enumerate(wanted) if w == task]
                vectors = model(task).features(pixels[mine])
                for i, row in zip(mine, self.heads[task](vectors), strict=True):
                    answers[i] = row
        return answers


def load_peft() -> Any:
    """PEFT, where it is installed.

    Raises:
        RivalMissingError: it is not.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("peft")
    except ImportError:
        reason = "it is not installed; `pip install 'rootstock[bench]'` brings it"
        raise RivalMissingError("PEFT", reason) from None


def peft_mixed(setting: Setting, adapters: Sequence[Adapter]) -> Batch:
    """PEFT's own mixed batches: `adapter_names`, one a sample; heads beside it.

    Raises:
        RivalMissingError: PEFT is not installed, or an adapter is more than W + BA.
    """
    peft = load_peft()
    timm = Timm(setting)
    model: Any = None
    for number, adapter in enumerate(adapters):
        name, form = f"task{number}", lower(adapter, setting.backbone.spec)
        pristine = setting.backbone.net  # PEFT puts modules of its own into the other
        pairs = {path: _pair(f, pristine.get_submodule(path)) for path, f in form.items()}
        ranks = {a.shape[0] for a, _ in pairs.values()}
        if len(ranks) != 1:
            raise RivalMissingError("PEFT", "its mixture has one rank an adapter here")
        config = peft.LoraConfig(
            r=min(ranks), lora_alpha=min(ranks), lora_dropout=0.0, target_modules=sorted(pairs)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if model is None:
                model = peft.get_peft_model(
                    timm.net, config, adapter_name=name, autocast_adapter_dtype=False
                )
            else:
                model.add_adapter(name, config)
        with torch.no_grad():
            for path, (a, b) in pairs.items():
                at = model.base_model.model.get_submodule(path)
                at.lora_A[name].weight.data.copy_(a)
                at.lora_B[name].weight.data.copy_(b)
    model.to(timm.device, timm.dtype).eval()
    heads = _Heads(adapters, timm.device)

    def run(pixels: NDArray[np.uint8], wanted: Sequence[int]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            names = [f"task{i}" for i in wanted]
            vectors = model(timm.images(pixels), adapter_names=names).to(torch.float32)
            return heads(vectors, wanted)

    return run


def in_chunks(batch: Batch, size: int) -> Batch:
    """The same, a few samples at a time."""

    def run(pixels: NDArray[np.uint8], wanted: Sequence[int]) -> list[NDArray[np.float32]]:
        parts = [slice(at, at + size) for at in range(0, len(wanted), size)]
        return [row for part in parts for row in batch(pixels[part], wanted[part])]

    return run


class _Heads:
    """Classifiers of several sizes, padded to one, so that one product answers a batch."""

    def __init__(self, adapters: Sequence[Adapter], device: torch.device) -> None:
        self.labels = [len(a.head_bias) for a in adapters]
        most, width = max(self.labels), adapters[0].head_weight.shape[1]
        weight = np.zeros((len(adapters), most, width), np.float32)
        bias = np.zeros((len(adapters), most), np.float32)
        for number, (adapter, labels) in enumerate(zip(adapters, self.labels, strict=True)):
            weight[number, :labels], bias[number, :labels] = adapter.head_weight, adapter.head_bias
        self.weight = torch.from_numpy(weight).to(device)
        self.bias = torch.from_numpy(bias).to(device)

    def __call__(self, vectors: Tensor, wanted: Sequence[int]) -> list[NDArray[np.float32]]:
        """[n, features] → logits of each by its own head."""
        mine = torch.tensor(wanted, device=vectors.device)
        products = torch.baddbmm(self.bias[mine, :, None], self.weight[mine], vectors[:, :, None])
        rows = products[:, :, 0].cpu().numpy()
        return [row[: self.labels[w]] for row, w in zip(rows, wanted, strict=True)]


def _pair(form: LinearForm, target: nn.Module) -> tuple[Tensor, Tensor]:
    """A [r, in] and B [out, r] of a form that is nothing else."""
    others = (form.P, form.alpha, form.c, form.gamma, form.beta)
    if any(o is not None and o != () for o in others) or not isinstance(target, nn.Linear):
        raise RivalMissingError("PEFT", "the method is not W + BA")
    downs, ups = [], []
    for op in form.Q:
        if not isinstance(op, LowRank) or op.cols is not None:
            raise RivalMissingError("PEFT", "the method is not W + BA")
        up = op.up if op.core is None else op.up @ op.core
        whole = up.new_zeros(target.out_features, up.shape[1])
        whole[slice(None) if op.rows is None else op.rows] = up
        downs.append(op.down)
        ups.append(whole)
    return torch.cat(downs), torch.cat(ups, dim=1)


def _free_bytes(device: torch.device) -> float:
    """Memory that could be had now."""
    if device.type != "cpu":
        return float(torch.cuda.mem_get_info(device)[0])
    with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 (no ordinary file)
        found = re.search(r"MemAvailable:\s+(\d+)", file.read())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(found[1]) * 1024 if found else float(pages)
