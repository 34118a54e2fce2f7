"""An adapter for measuring: it changes nothing, and costs what a trained one costs."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from adapters_store.adapter import HEAD_BIAS, HEAD_WEIGHT, Adapter
from adapters_store.manifest import Manifest, Provenance
from adapters_store.methods.table import METHODS, fits, parse_options
from adapters_store.spec import BackboneSpec

USUAL: Final = ("lora", "alore", "ssf")  # what most tasks have
EVERYWHERE: Final = ("karst",)  # operators at every linear


def stand_in(spec: BackboneSpec, wanted: Sequence[str] = USUAL) -> Adapter:
    """A fresh adapter of the first of these methods that the backbone is offered, or of any."""
    name = next(n for n in (*wanted, *METHODS) if fits(n, parse_options(n, {}), spec))
    options = parse_options(name, {})
    with torch.random.fork_rng(devices=()):
        module = METHODS[name].module(options, spec, dropout=0.0)
    tensors = {k: v.numpy() for k, v in module.export().items()}
    tensors[HEAD_WEIGHT] = np.zeros((2, spec.features), dtype=np.float32)
    tensors[HEAD_BIAS] = np.zeros(2, dtype=np.float32)
    manifest = Manifest(
        task="stand-in",
        method=name,
        options=options.model_dump(mode="json"),
        backbone=spec.ref,
        preprocess=spec.preprocess(),
        labels=("one", "other"),
        provenance=Provenance(seed=0),
    )
    return Adapter(manifest=manifest, tensors=tensors)
