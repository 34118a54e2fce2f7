"""How well an adapter does: answers of the real path, in batches. Knows no training and no file."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters_store import plain
from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone, features
from adapters_store.manifest import Preprocess
from adapters_store.methods.table import lower
from adapters_store.normal_form import LinearForm, Operator
from adapters_store.pixels import normalise
from training.data import Split
from training.recipe import Precision
from training.room import within_memory
from training.trunk import placed

BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class of a split."""

    label: str
    images: int
    correct: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How many images of a split were answered with their own class."""

    classes: tuple[ClassScore, ...]  # in the order of the adapter's labels

    @property
    def images(self) -> int:
        """How many were asked."""
        return sum(c.images for c in self.classes)

    @property
    def correct(self) -> int:
        """How many were right."""
        return sum(c.correct for c in self.classes)

    @property
    def accuracy(self) -> float:
        """The share that was right, 0 … 1."""
        return self.correct / self.images


def logits(
    backbone: Backbone,
    adapter: Adapter,
    images: NDArray[np.uint8],
    *,
    device: torch.device,
    precision: Precision = "fp32",
    batch: int = BATCH,
) -> NDArray[np.float32]:
    """The adapter's answers by its normal form, unmerged: uint8 [N, 3, H, W] → [N, labels].

    The arithmetic of `plain.logits`, in batches and on any device.
    """
    form = {p: moved(f, device) for p, f in lower(adapter, backbone.spec).items()}
    net = plain.formed(placed(backbone, device).net, form)
    rows = vectors(net, adapter.manifest.preprocess, images, device, precision, batch)
    scores: NDArray[np.float32] = rows @ adapter.head_weight.T
    return scores + adapter.head_bias


def vectors(
    net: nn.Module,
    preprocess: Preprocess,
    images: NDArray[np.uint8],
    device: torch.device,
    precision: Precision,
    batch: int = BATCH,
) -> NDArray[np.float32]:
    """What heads read, of any network on the device: uint8 [N, 3, H, W] → [N, features].

    Raises:
        MemoryExhaustedError: a batch fits nowhere.
    """
    mean = torch.tensor(preprocess.mean, device=device)
    std = torch.tensor(preprocess.std, device=device)
    rows = []
    with (
        within_memory(device, batch),
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        for at in range(0, len(images), batch):
            pictures = torch.from_numpy(images[at : at + batch]).to(device)
            rows.append(features(net, normalise(pictures, mean, std)).to("cpu", torch.float32))
    found: NDArray[np.float32] = torch.cat(rows).numpy()
    return found


def score(
    backbone: Backbone,
    adapter: Adapter,
    split: Split,
    *,
    device: torch.device,
    precision: Precision = "fp32",
    batch: int = BATCH,
) -> Score:
    """How many images of the split the adapter answers rightly, class by class."""
    answers = logits(
        backbone, adapter, split.images, device=device, precision=precision, batch=batch
    )
    return counted(answers, split.labels, adapter.manifest.labels)


def counted(
    answers: NDArray[np.float32], wanted: NDArray[np.int64], labels: Sequence[str]
) -> Score:
    """How often the largest of the logits [N, labels] is that of the wanted label [N]."""
    right = answers.argmax(1) == wanted
    return Score(
        classes=tuple(
            ClassScore(
                label=label,
                images=int((wanted == at).sum()),
                correct=int(right[wanted == at].sum()),
            )
            for at, label in enumerate(labels)
        )
    )


def moved(form: LinearForm, device: torch.device) -> LinearForm:
    """The same form with every tensor on the device."""
    return LinearForm(
        P=tuple(_fields_moved(op, device) for op in form.P),
        Q=tuple(_fields_moved(op, device) for op in form.Q),
        alpha=_moved(form.alpha, device),
        c=_moved(form.c, device),
        gamma=_moved(form.gamma, device),
        beta=_moved(form.beta, device),
    )


def _fields_moved(op: Operator, device: torch.device) -> Operator:
    return replace(op, **{f.name: _moved(getattr(op, f.name), device) for f in fields(op)})


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
