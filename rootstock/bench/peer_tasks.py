"""The same tasks for everybody who is measured beside us: artifacts, whole models, PEFT's folders.

Run as a program, because `loadtest/peers` imports nothing of ours. Knows no server.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from adapters_store import artifact, peft, plain
from adapters_store import backbone as backbones
from adapters_store.adapter import HEAD_BIAS, HEAD_WEIGHT, Adapter
from adapters_store.backbone import Backbone, features
from adapters_store.effect import Golden, golden_images
from adapters_store.manifest import Preprocess
from adapters_store.methods.table import lower
from adapters_store.pixels import normalise, pixels
from adapters_store.store import AdapterStore
from rootstock.bench.adapters import Maker

_DTYPES: Final = {"bf16": torch.bfloat16, "fp32": torch.float32}
# PEFT's shape: rank 8 on the projections of attention.
_OPTIONS: Final[Mapping[str, Any]] = {"variant": "each", "roles": ["qkv", "proj"], "rank": 8}
_SPREAD: Final = 2.0  # of logits: odds are then neither all even nor all certain
_TIE: Final = 0.05  # between the two best odds: nearer than this, bf16 may say either


def make(asked: Mapping[str, Any]) -> None:
    """Fill a folder.

    Args:
        asked: `folder`, with `pictures/*` in it; `backbone`, `weights`; `dtype`; `names` of all
            tasks; `stores`, how many of them, from the first, each store of Rootstock's holds.

    Writes `card.json` (the network), `truth.json` (labels that fp32 gives beyond doubt),
    `base.safetensors`, and for each task a file or folder in `artifacts`, `models` and `peft`.

    Raises:
        BackboneUnavailableError
    """
    folder, dtype = Path(asked["folder"]), _DTYPES[asked["dtype"]]
    weights = None if asked["weights"] is None else Path(asked["weights"])
    backbone = backbones.load(asked["backbone"], weights)
    maker, golden = Maker(backbone), Golden(backbone)
    preprocess = backbone.spec.preprocess("timm")
    pictures = {
        file.name: pixels(file.read_bytes(), preprocess)
        for file in sorted((folder / "pictures").iterdir())
    }
    for name in ("artifacts", "models", "peft"):
        (folder / name).mkdir()
    scale = _head_scale(backbone, preprocess)
    truth: dict[str, dict[str, str]] = {}
    labels: tuple[str, ...] = ()
    for seed, task in enumerate(asked["names"]):
        adapter = _adapter(maker, golden, preprocess, task, seed, scale)
        (folder / "artifacts" / f"{task}.safetensors").write_bytes(artifact.write(adapter))
        state = plain.merged_state(backbone, adapter)
        save_file(_cast(state, dtype), folder / "models" / f"{task}.safetensors")
        peft.write(adapter, backbone.spec, folder / "peft" / task)
        truth[task], labels = _truth(backbone, adapter, pictures), adapter.manifest.labels
        sys.stdout.write(f"{task}\n")
        sys.stdout.flush()
    for count in asked["stores"]:
        store = AdapterStore.open(f"file://{folder}/store-{count}", backbone.spec.ref.digest)
        for task in asked["names"][:count]:
            data = (folder / "artifacts" / f"{task}.safetensors").read_bytes()
            store.publish(data, task, by="peers")
    base = dict(backbone.net.state_dict())
    save_file(_cast(base, dtype), folder / "base.safetensors")
    (folder / "truth.json").write_text(json.dumps(truth))
    card = _card(backbone, preprocess, labels, asked["dtype"])
    (folder / "card.json").write_text(json.dumps(card))


def _adapter(
    maker: Maker,
    golden: Golden,
    preprocess: Preprocess,
    task: str,
    seed: int,
    scale: float,
) -> Adapter:
    """Random factors that show, and a head whose logits have a modest spread."""
    drawn = maker.make("lora", task, seed, options=_OPTIONS, effect=False)
    tensors = dict(drawn.tensors)
    for name in (HEAD_WEIGHT, HEAD_BIAS):
        tensors[name] = (tensors[name] * (scale if name == HEAD_WEIGHT else 1.0)).astype(np.float32)
    manifest = drawn.manifest.model_copy(update={"preprocess": preprocess})
    effect = golden.record(Adapter(manifest=manifest, tensors=tensors))
    return Adapter(manifest=manifest.model_copy(update={"effect": effect}), tensors=tensors)


def _head_scale(backbone: Backbone, preprocess: Preprocess) -> float:
    """What a head of N(0, 1) is multiplied by, so that logits spread by about `_SPREAD`."""
    vectors = plain.vectors(backbone.net, preprocess, golden_images(preprocess.size))
    return _SPREAD / float(np.sqrt(np.mean(np.sum(vectors**2, axis=1))))


def _truth(
    backbone: Backbone, adapter: Adapter, pictures: Mapping[str, NDArray[np.uint8]]
) -> dict[str, str]:
    """Labels by the merged network in fp32, the surest first, without those that nearly tie."""
    preprocess = adapter.manifest.preprocess
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    net = plain.merged(backbone.net, lower(adapter, backbone.spec))
    images = torch.from_numpy(np.stack(list(pictures.values())))
    with torch.inference_mode():
        vectors = features(net, normalise(images, mean, std)).numpy()
    logits = torch.from_numpy(vectors @ adapter.head_weight.T + adapter.head_bias)
    odds, best = logits.softmax(-1).topk(2)
    labels = adapter.manifest.labels
    found = [
        (first - second, name, labels[place])
        for name, (first, second), (place, _) in zip(
            pictures, odds.tolist(), best.tolist(), strict=True
        )
    ]
    return {name: label for gap, name, label in sorted(found, reverse=True) if gap >= _TIE}


def _cast(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Every float of a state dict in the dtype that is served."""
    return {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().clone()
        for name, tensor in state.items()
    }


def _card(
    backbone: Backbone, preprocess: Preprocess, labels: tuple[str, ...], dtype: str
) -> dict[str, Any]:
    """What somebody who has timm alone needs to know of the network."""
    return {
        "model": backbone.spec.ref.name,
        "kwargs": dict(backbone.spec.ref.kwargs),
        "classifier": backbone.spec.classifiers[0],
        "labels": list(labels),
        "dtype": dtype,
        **preprocess.model_dump(
            mode="json", include={"size", "crop_pct", "interpolation", "mean", "std"}
        ),
    }


if __name__ == "__main__":
    make(json.loads(sys.argv[1]))
