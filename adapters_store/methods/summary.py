"""What a method costs on a backbone, counted and not measured. Knows no weight."""

from collections.abc import Mapping
from typing import Any

import torch

from adapters_store.methods.table import METHODS, method_named, parse_options
from adapters_store.normal_form import macs, rank
from adapters_store.spec import BackboneSpec


def summaries(
    spec: BackboneSpec, given: Mapping[str, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """One row a method, with `given` options or the defaults.

    Columns: parameters (head excluded), artifact_bytes (fp16, head excluded), rank (of the largest
    delta), targets, macs_per_token (of one block, unmerged), relative_macs (to its base linears).

    Raises:
        MethodUnknownError: `given` names a method that does not exist.
        ArtifactInvalidError: an option is unknown or out of range.
    """
    for name in given or {}:
        method_named(name)
    return [_summary(name, spec, (given or {}).get(name, {})) for name in METHODS]


def _summary(name: str, spec: BackboneSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    method, options = METHODS[name], parse_options(name, given)
    layout = method.layout(options, spec)
    tensors = {n: torch.empty(shape, device="meta") for n, shape in layout.items()}
    form = method.lower(options, spec, tensors)
    blocks = len({t.block for t in spec.targets}) or 1
    added = sum(macs(f) for f in form.values()) / blocks
    base = sum(t.outputs * t.inputs for t in spec.targets) / blocks
    count = method.count(options, spec)
    return {
        "method": name,
        "parameters": count,
        "artifact_bytes": 2 * count,
        "rank": max((rank(f) for f in form.values()), default=0),
        "targets": len(form),
        "macs_per_token": round(added),
        "relative_macs": added / base,
    }
