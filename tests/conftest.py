"""What several test files stand on: small real backbones and adapters made from them."""

import os
from pathlib import Path

from adapters_store.threads import wait_passively

wait_passively()

import numpy as np
import pytest
import torch

from adapters_store import backbone as backbones
from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone
from adapters_store.effect import Golden
from adapters_store.manifest import Manifest, Provenance
from adapters_store.methods.table import METHODS, parse_options

SHARED = Path(os.environ.get("ROOTSTOCK_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    """A random two-block ViT of 32 pixels, wide enough for every method."""
    return backbones.random(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3
    )


@pytest.fixture(scope="session")
def nano() -> Backbone:
    """The bundled backbone."""
    return backbones.load()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real tasks and weights; tests that ask for it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real data is not at {SHARED} (set ROOTSTOCK_SHARED)")
    return SHARED


def make_adapter(
    backbone: Backbone,
    method: str = "lora",
    task: str = "digits",
    labels: int = 5,
    seed: int = 0,
    *,
    effect: bool = True,
    **options: object,
) -> Adapter:
    """An adapter with random, visible factors and a random head."""
    rng = np.random.default_rng(seed)
    parsed = parse_options(method, options)
    layout = METHODS[method].layout(parsed, backbone.spec)
    tensors = {
        name: (0.3 * rng.standard_normal(shape) / max(shape[-1], 1) ** 0.5).astype(np.float16)
        for name, shape in layout.items()
    }
    tensors["head.weight"] = rng.standard_normal((labels, backbone.spec.features)).astype(
        np.float32
    )
    tensors["head.bias"] = rng.standard_normal(labels).astype(np.float32)
    manifest = Manifest(
        task=task,
        method=method,
        options=parsed.model_dump(mode="json"),
        backbone=backbone.spec.ref,
        preprocess=backbone.spec.preprocess(),
        labels=tuple(f"label {i}" for i in range(labels)),
        provenance=Provenance(seed=seed),
    )
    adapter = Adapter(manifest=manifest, tensors=tensors)
    if not effect:
        return adapter
    record = Golden(backbone).record(adapter)
    return Adapter(manifest=manifest.model_copy(update={"effect": record}), tensors=tensors)


@pytest.fixture(scope="session", name="make_adapter")
def _make_adapter():
    """The maker of adapters, as a fixture so that test files need not import this one."""
    return make_adapter


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)
