"""How far an imported adapter lies from PEFT's own merge, and an exported one from ours.

    python -m tests.bench.peft_round_trip [--backbone NAME --weights FILE]

Random factors on the named backbone, 16 pictures of noise; the largest difference of any logit.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from adapters_store.threads import wait_passively

wait_passively()

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft

from adapters_store import backbone as backbones  # noqa: E402
from adapters_store import peft as ours  # noqa: E402
from adapters_store import plain  # noqa: E402
from adapters_store.backbone import Backbone  # noqa: E402
from adapters_store.pixels import normalise  # noqa: E402
from tests.conftest import make_adapter  # noqa: E402

LABELS = 10
IMPORTS: dict[str, dict[str, Any]] = {
    "qkv, r 8": {"r": 8, "target_modules": ["qkv"]},
    "every linear, r 16, alpha 32": {
        "r": 16,
        "lora_alpha": 32,
        "target_modules": ["qkv", "attn.proj", "fc1", "fc2"],
    },
    "rsLoRA, ranks and alphas by module": {
        "r": 4,
        "use_rslora": True,
        "target_modules": ["qkv", "fc1"],
        "rank_pattern": {"fc1": 7},
        "alpha_pattern": {"blocks.0.attn.qkv": 3},
    },
}
EXPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {}),
    "lora qkv, scale 5": ("lora", {"variant": "qkv", "scale": 5.0}),
    "heart_lora": ("heart_lora", {}),
    "bi_lora": ("bi_lora", {}),
    "fact_tt": ("fact_tt", {}),
    "fact_tk": ("fact_tk", {}),
}


def main() -> None:
    """Every configuration both ways, one JSON file, one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default=backbones.NANO)
    parser.add_argument("--weights", type=Path)
    out = Path(__file__).parents[2] / "docs" / "results" / "peft.json"
    parser.add_argument("--out", type=Path, default=out)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    base = backbones.load(given.backbone, given.weights)
    shape = (16, 3, *base.spec.input_size)
    pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    rows = [imported(base, name, config, pictures) for name, config in IMPORTS.items()]
    rows += [
        exported(base, name, method, options, pictures)
        for name, (method, options) in EXPORTS.items()
    ]
    value = {"backbone": given.backbone, "images": len(pictures), "dtype": "fp32", "rows": rows}
    given.out.write_text(json.dumps(value, indent=1) + "\n")
    for row in rows:
        print(row)


def imported(
    base: Backbone, name: str, config: dict[str, Any], pictures: NDArray[np.uint8]
) -> dict[str, Any]:
    """PEFT trains (here: draws), we read; against `merge_and_unload`."""
    torch.manual_seed(0)
    (classifier,) = base.spec.classifiers
    model = peft.get_peft_model(
        _timm(base), peft.LoraConfig(**config, modules_to_save=[classifier])
    ).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05 if "lora" in parameter_name else 1.0)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        adapter = ours.read(Path(folder), base.spec, task="peft")
    wanted = _answers(model.merge_and_unload(), base, pictures)
    return _row("import", name, plain.logits(base, adapter, pictures), wanted)


def exported(
    base: Backbone,
    name: str,
    method: str,
    options: dict[str, Any],
    pictures: NDArray[np.uint8],
) -> dict[str, Any]:
    """We write, PEFT loads."""
    adapter = make_adapter(base, method, labels=LABELS, effect=False, **options)
    with tempfile.TemporaryDirectory() as folder:
        ours.write(adapter, base.spec, Path(folder))
        model = peft.PeftModel.from_pretrained(_timm(base), folder).eval()
    wanted = plain.logits(base, adapter, pictures)
    return _row("export", name, _answers(model, base, pictures), wanted)


def _timm(base: Backbone) -> torch.nn.Module:
    ref = base.spec.ref
    net: torch.nn.Module = timm.create_model(ref.name, **ref.kwargs, num_classes=LABELS)
    net.load_state_dict(base.net.state_dict(), strict=False)
    return net


def _answers(
    net: torch.nn.Module, base: Backbone, pictures: NDArray[np.uint8]
) -> NDArray[np.float32]:
    mean, std = torch.tensor(base.spec.mean), torch.tensor(base.spec.std)
    with torch.no_grad():
        logits: NDArray[np.float32] = net(normalise(torch.from_numpy(pictures), mean, std)).numpy()
    return logits


def _row(
    way: str, name: str, got: NDArray[np.float32], wanted: NDArray[np.float32]
) -> dict[str, Any]:
    return {
        "way": way,
        "adapter": name,
        "largest_difference": float(np.abs(got - wanted).max()),
        "largest_logit": float(np.abs(wanted).max()),
        "same_top1": int((got.argmax(1) == wanted.argmax(1)).sum()),
    }


if __name__ == "__main__":
    main()
