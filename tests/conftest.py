"""What several test files stand on: small real backbones and adapters made from them."""

import os
from pathlib import Path

from adapters_store.threads import wait_passively

wait_passively()

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import save_file

from adapters_store import backbone as backbones
from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone
from adapters_store.effect import Golden
from adapters_store.manifest import Manifest, Provenance
from adapters_store.methods.table import METHODS, parse_options

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers are as many as the cores

# A run is to tell about a change, not about luck or a busy machine: the same examples every time,
# however long they take. ROOTSTOCK_SEARCH=1 looks for new ones.
settings.register_profile(
    "rootstock",
    deadline=None,
    derandomize=not os.environ.get("ROOTSTOCK_SEARCH"),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("rootstock")

SHARED = Path(os.environ.get("ROOTSTOCK_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    """A random two-block ViT of 32 pixels, wide enough for every method."""
    return backbones.random(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3
    )


# A small network of each family, and of a size that every method fits.
FAMILIES = {
    "vit": (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3},
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {
            "img_size": 32,
            "window_size": 4,
            "embed_dim": 32,
            "depths": (2, 2),
            "num_heads": (2, 4),
        },
    ),
    "convnext": ("convnext_tiny", {"depths": (1, 1, 2, 1), "dims": (32, 32, 64, 64)}),
    "mixer": (
        "mixer_s16_224",
        {"img_size": 64},  # timm lets nothing else be chosen
    ),
}


@pytest.fixture(scope="session")
def tinies(tmp_path_factory) -> dict[str, Backbone]:
    """A small random network of each family.

    Fresh ConvNeXts scale their branches by 1e-6, and nothing an adapter does would show: here by 1.
    """
    found = {}
    for family, (name, kwargs) in FAMILIES.items():
        state = backbones.random(name, **kwargs).net.state_dict()
        state = {k: torch.ones_like(v) if k.endswith("gamma") else v for k, v in state.items()}
        file = tmp_path_factory.mktemp("weights") / f"{family}.safetensors"
        save_file(state, file)
        found[family] = backbones.load(name, file, **kwargs)
    return found


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
    row = METHODS[method]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = row.module(parsed, backbone.spec, dropout=0.0)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = rng.standard_normal(tuple(parameter.shape)) / max(parameter.shape[-1], 1) ** 0.5
            parameter.copy_(torch.from_numpy(0.3 * noise))
    exact = {n for n in module.export() if n.rpartition(".")[2] in row.exact}
    tensors: dict[str, np.ndarray] = {
        name: factor.numpy()
        if factor.dtype == torch.uint8 or name in exact
        else factor.numpy().astype(np.float16)
        for name, factor in module.export().items()
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
