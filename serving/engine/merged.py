"""Folding: one adapter into its own copies of what it changes. Knows no batch, queue or policy.

A folded network is a twin of the engine's: it shares every parameter that the adapter leaves as it
is. What changes is computed from the pristine fp32 weights, never from weights that were folded or
rounded before, and rounded once, to the engine's dtype.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters_store import plain
from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone, twin
from adapters_store.effect import relative
from adapters_store.methods.table import lower
from adapters_store.normal_form import LinearForm
from serving.engine.layout import Layout
from serving.engine.prepared import Prepared


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """An adapter folded into its own copies of what it changes."""

    net: nn.Module  # a twin of the engine's network, the changed parameters replaced
    head: Prepared  # its head, mean and std; no operators
    nbytes: int  # of the own copies alone, head included


def fold(
    pristine: Backbone,
    frozen: nn.Module,
    adapter: Adapter,
    dtype: torch.dtype,
    device: torch.device,
) -> Folded:
    """The adapter in weights of its own; target by target, so that little fp32 is alive at once.

    Args:
        pristine: fp32 weights, on the CPU.
        frozen: the engine's network, of the same module paths.
        adapter: admitted for this backbone.
        dtype: of the engine.
        device: of the engine.
    """
    net, nbytes = twin(frozen), 0
    for path, form in lower(adapter, pristine.spec).items():
        source, own = pristine.net.get_submodule(path), net.get_submodule(path)
        weight, bias = plain.parameters(source, form)
        for name, changes, values in (
            ("weight", _weight_changes(form), weight),
            ("bias", _bias_changes(form), bias),
        ):
            if changes and values is not None:
                copy = _placed(values, own.get_parameter(name), dtype, device)
                setattr(own, name, nn.Parameter(copy, requires_grad=False))
                nbytes += copy.numel() * copy.element_size()
    head = _head(adapter, dtype, device)
    return Folded(net, head, nbytes + head.nbytes)


def weigh(pristine: Backbone, adapter: Adapter, dtype: torch.dtype) -> int:
    """The bytes that `fold` would take, known without folding."""
    numbers = 0
    for path, form in lower(adapter, pristine.spec).items():
        source = pristine.net.get_submodule(path)
        assert isinstance(source, nn.Linear | nn.LayerNorm | nn.Conv2d)
        numbers += source.weight.numel() if _weight_changes(form) else 0
        numbers += source.bias.numel() if source.bias is not None and _bias_changes(form) else 0
    return numbers * dtype.itemsize + _head(adapter, dtype, torch.device("cpu")).nbytes


def disagreements(
    merged: NDArray[np.float32], mixed: NDArray[np.float32], tolerance: float
) -> tuple[str, ...]:
    """Why merged logits are not those of the mixed lane; none when they agree.

    Labels that lie closer to each other than the tolerance may change places: their order is
    rounding, in either lane.
    """
    if not np.isfinite(merged).all():
        return ("merged, the golden images give NaN or infinite logits",)
    faults = []
    if not (distance := relative(merged, mixed)) <= tolerance:  # NaN is no agreement
        faults.append(f"merged, the golden images give other logits: {distance:.3g} relative")
    given, rows = merged.argmax(1), np.arange(len(mixed))
    lost = mixed.max(1) - mixed[rows, given]
    if (lost > tolerance * np.abs(mixed).max(1)).any():
        faults.append("merged, a golden image gets another label")
    return tuple(faults)


def _weight_changes(form: LinearForm) -> bool:
    return bool(form.P or form.Q) or form.alpha is not None or form.gamma is not None


def _bias_changes(form: LinearForm) -> bool:
    return any(term is not None for term in (form.c, form.gamma, form.beta))


def _placed(values: Tensor, like: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy that lies in memory as the frozen parameter does, which the engine has chosen."""
    copy = torch.empty_like(like, dtype=dtype, device=device)
    return copy.copy_(values)


def _head(adapter: Adapter, dtype: torch.dtype, device: torch.device) -> Prepared:
    preprocess = adapter.manifest.preprocess
    return Prepared(
        layout=Layout((), 0),
        row=torch.empty(0, dtype=dtype),
        weight=torch.from_numpy(np.array(adapter.head_weight)),
        bias=torch.from_numpy(np.array(adapter.head_bias)),
        mean=torch.tensor(preprocess.mean, dtype=torch.float32),
        std=torch.tensor(preprocess.std, dtype=torch.float32),
    ).to(device)
