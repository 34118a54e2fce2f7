"""What a method costs on a backbone, counted and not measured. Knows no weight."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adapters_store.errors import MismatchError
from adapters_store.methods.protocol import Layout
from adapters_store.methods.table import METHODS, fits, offered, parse_options
from adapters_store.normal_form import macs, rank
from adapters_store.spec import BackboneSpec


def summaries(
    spec: BackboneSpec, given: Mapping[str, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """One row a method, with `given` options or the defaults.

    Methods that the backbone has no place for are left out.

    Columns: parameters (head excluded), artifact_bytes (as stored, head excluded), rank (of the
    largest delta), targets, macs_per_token (of one block, unmerged), relative_macs (to its base
    linears).

    Raises:
        MethodUnknownError: `given` names a method that does not exist.
        ArtifactInvalidError: an option is unknown or out of range.
        MismatchError: given options do not fit the backbone.
    """
    given = given or {}
    for name, options in given.items():
        try:
            offered(name, spec).layout(parse_options(name, options), spec)
        except ValueError as error:
            raise MismatchError(name, (str(error),)) from None
    return [
        _summary(name, spec, given.get(name, {}))
        for name in METHODS
        if fits(name, parse_options(name, given.get(name, {})), spec)
    ]


def _blank(layout: Layout, packed: set[str]) -> dict[str, Tensor]:
    """Tensors of no content; packed ones are small and real, for they are looked into."""
    return {
        n: torch.zeros(shape, dtype=torch.uint8)
        if n in packed
        else torch.empty(shape, device="meta")
        for n, shape in layout.items()
    }


def _summary(name: str, spec: BackboneSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    method, options = METHODS[name], parse_options(name, given)
    layout = method.layout(options, spec)
    packed = {n for n in layout if n.rpartition(".")[2] in method.packed}
    exact = {n for n in layout if n.rpartition(".")[2] in method.exact}
    sizes = {n: math.prod(shape) for n, shape in layout.items()}
    form = method.lower(options, spec, _blank(layout, packed))
    blocks = len({t.block for t in spec.targets}) or 1
    added = sum(macs(f) for f in form.values()) / blocks
    base = sum(t.outputs * t.inputs for t in spec.targets) / blocks
    count = method.count(options, spec)
    return {
        "method": name,
        "parameters": count,
        "artifact_bytes": sum(
            size * (1 if n in packed else 4 if n in exact else 2) for n, size in sizes.items()
        ),
        "rank": max((rank(f) for f in form.values()), default=0),
        "targets": len(form),
        "macs_per_token": round(added),
        "relative_macs": added / base,
    }
