"""LoRA adapters of Hugging Face PEFT, to and from artifacts. Knows PEFT's files, not its code.

PEFT keeps a folder: `adapter_config.json`, and `adapter_model.safetensors` with, for a target such
as `blocks.0.attn.qkv`, `base_model.model.<target>.lora_A.weight` [r, in] and `lora_B.weight`
[out, r]; its delta is scaling · B A, with scaling = alpha / r, or alpha / √r for rsLoRA.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters_store.adapter import HEAD_BIAS, HEAD_WEIGHT, Adapter
from adapters_store.errors import PeftRefusedError
from adapters_store.manifest import Manifest, Preprocess, Provenance
from adapters_store.methods.lora import LoraOptions
from adapters_store.methods.table import lower
from adapters_store.normal_form import LinearForm, LowRank
from adapters_store.spec import BackboneSpec

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_FACTOR: Final = re.compile(r"(?P<path>.+)\.lora_(?P<factor>[AB])(\.default)?\.weight")
_BYTES_MAX: Final = 512 * 2**20
_CONFIG_MOST: Final = 2**20
_PATTERNS_MOST: Final = 1024
_NUMBER_MOST: Final = 1e6  # of a rank, of an alpha

# Of the configuration: what is read here, and what decides nothing once training is over.
_READ: Final = {
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias",
    "init_lora_weights",
}  # fmt: skip
_IDLE: Final = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout",
    "megatron_core", "modules_to_save", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "target_modules", "task_type",
}  # fmt: skip
# What changes the arithmetic beyond W + s·BA, or the weights that it is added to.
_REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "use_dora": "DoRA rescales each row by a norm that W + BA has only once it is merged",
        "lora_bias": "lora_B has a bias, which the artifact's LoRA has no place for",
        "fan_in_fan_out": "its targets hold transposed weights, timm's do not",
        "target_parameters": "it adapts bare parameters and not linear layers",
        "layer_replication": "it repeats blocks: that is another network",
        "loftq_config": "LoftQ quantises the backbone: that is another backbone",
    }
)
_SOUND_STARTS: Final = (True, False, None, "gaussian", "eva", "orthogonal")


def read(
    folder: Path,
    spec: BackboneSpec,
    *,
    task: str,
    labels: tuple[str, ...] | None = None,
    preprocess: Preprocess | None = None,
) -> Adapter:
    """The adapter in a PEFT folder, exact, without an effect record; scaling folded into B.

    Args:
        folder: as `save_pretrained` writes it.
        spec: of the timm backbone that it was trained on.
        task: the name that the adapter gets.
        labels: of the classifier's rows; their numbers unless given.
        preprocess: how its pictures were prepared; the backbone's own way unless given.

    Raises:
        PeftRefusedError: the folder is not whole, or asks for what a LoRA artifact cannot say;
            every reason is listed.
        FileNotFoundError: no configuration.
    """
    config = _config(folder)
    reasons = list(_unlowerable(config))
    if reasons:
        config = {**config, "rank_pattern": {}, "alpha_pattern": {}}  # may be unfit to be tried
    tensors = _tensors(folder, reasons)
    found = _sorted(tensors, spec, reasons)
    pairs = {p: ab for p, ab in found.pairs.items() if _fits(p, ab, config, spec, reasons)}
    head = _head(found.head, spec, labels, reasons)
    if not pairs and not reasons:
        reasons.append("it adapts no linear layer")
    if reasons:
        raise PeftRefusedError(folder.name, tuple(reasons))
    factors: dict[str, NDArray[Any]] = {}
    for path, ab in pairs.items():
        factors[f"{path}.A"] = _stored(ab["A"])
        factors[f"{path}.B"] = _stored(ab["B"] * _scaling(path, ab["A"].shape[0], config))
    try:
        options = LoraOptions(
            variant="each", ranks={p: ab["A"].shape[0] for p, ab in sorted(pairs.items())}
        )
        manifest = Manifest(
            task=task,
            method="lora",
            options=options.model_dump(mode="json"),
            backbone=spec.ref,
            preprocess=preprocess or spec.preprocess(),
            labels=labels or tuple(str(i) for i in range(len(head[HEAD_BIAS]))),
            provenance=Provenance(
                recipe={"imported": "peft", "peft": _word(config.get("peft_version"))}
            ),
        )
    except ValidationError as error:  # a name or a label that no artifact may have
        faults = (f"{e['loc'][0]}: {e['msg']}" for e in error.errors(include_url=False))
        raise PeftRefusedError(folder.name, tuple(faults)) from None
    return Adapter(manifest=manifest, tensors={**factors, **head})


def write(adapter: Adapter, spec: BackboneSpec, folder: Path) -> None:
    """Write an adapter that is nothing but W + BA as a PEFT folder, in float32.

    Raises:
        PeftRefusedError: its method is of another shape; the reason says which.
    """
    form = lower(adapter, spec)
    places: dict[str, list[str]] = {}
    for path, f in form.items():
        for why in _unlike_lora(f):
            places.setdefault(why, []).append(path)
    reasons = [f"{why} ({at[0]} and {len(at) - 1} more)" for why, at in places.items()]
    if len(spec.classifiers) > 1:
        reasons.append("its backbone has two classifiers; what PEFT saved could not be read back")
    if not form:
        reasons = ["it has a head alone, and PEFT wants at least one adapted layer"]
    if reasons:
        raise PeftRefusedError(adapter.manifest.method, tuple(reasons))
    state: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    targets = spec.by_path()
    for path, f in form.items():
        a, b = _joined(f, targets[path].outputs, targets[path].inputs)
        state[f"{_PREFIX}{path}.lora_A.weight"] = a
        state[f"{_PREFIX}{path}.lora_B.weight"] = b
        ranks[path] = a.shape[0]
    for name in spec.classifiers:
        state[f"{_PREFIX}{name}.weight"] = torch.from_numpy(np.array(adapter.head_weight))
        state[f"{_PREFIX}{name}.bias"] = torch.from_numpy(np.array(adapter.head_bias))
    most = max(ranks.values())
    others = {f"^{re.escape(p)}": r for p, r in ranks.items() if r != most}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.manifest.backbone.name,
        "inference_mode": True,
        "bias": "none",
        "r": most,
        "lora_alpha": most,  # B holds the scale already
        "lora_dropout": 0.0,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "modules_to_save": list(spec.classifiers),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if file.stat().st_size > _CONFIG_MOST:
        raise PeftRefusedError(folder.name, (f"{CONFIG} has more than {_CONFIG_MOST} bytes",))
    try:
        config = json.loads(file.read_text())
    except (ValueError, RecursionError):
        raise PeftRefusedError(folder.name, (f"{CONFIG} is no JSON",)) from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        reason = f"peft_type is {kind!r}; only LORA can be lowered"
        raise PeftRefusedError(folder.name, (reason,))
    return config


def _unlowerable(config: Mapping[str, Any]) -> Iterator[str]:
    """Every option that asks for more than W + s·BA on the pristine weights."""
    for name, value in sorted(config.items()):
        if name not in _READ | _IDLE and value:
            yield f"{name}={value!r}: {_REASONS.get(name, 'it is not known to leave W + BA as is')}"
    if config.get("init_lora_weights", True) not in _SOUND_STARTS:
        start = config["init_lora_weights"]
        yield f"init_lora_weights={start!r}: it changes the backbone's weights before training"
    if config.get("bias", "none") != "none":
        yield f"bias={config['bias']!r}: biases of the backbone were trained too"
    yield from _unfit_numbers(config)


def _unfit_numbers(config: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be a rank or an alpha, or a pattern of them."""
    for name in ("r", "lora_alpha"):
        if not _positive(config.get(name)):
            yield f"{name} is no positive number"
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict) or len(patterns) > _PATTERNS_MOST:
            yield f"{name} is no table of at most {_PATTERNS_MOST} patterns"
            continue
        if not all(map(_positive, patterns.values())):
            yield f"{name} holds something else than positive numbers"
        for pattern in patterns:
            if not _quick(pattern):
                yield f"{name}: {pattern[:60]!a} is too involved a pattern to be tried"


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value <= _NUMBER_MOST


def _quick(pattern: str) -> bool:
    """Whether matching ends soon, whatever the path: few repeats, and none of a group."""
    try:
        re.compile(pattern)
    except re.error:
        return False
    repeats = len(re.findall(r"[*+?{]", pattern))
    return len(pattern) <= 200 and repeats <= 3 and not re.search(r"\)[*+?{]", pattern)


def _tensors(folder: Path, reasons: list[str]) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    if not file.is_file():
        pickled = (folder / "adapter_model.bin").exists()
        why = "; a .bin file is a pickle, and is not opened" if pickled else ""
        reasons.append(f"there is no {WEIGHTS}{why}")
        return {}
    if file.stat().st_size > _BYTES_MAX:
        reasons.append(f"{WEIGHTS} has more than {_BYTES_MAX} bytes")
        return {}
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        reasons.append(f"{WEIGHTS} is damaged: {str(error)[:100]}")
        return {}
    return tensors


@dataclass(frozen=True, slots=True)
class _Found:
    """A folder's tensors: A and B by target, weight and bias of the classifier."""

    pairs: dict[str, dict[str, Tensor]]
    head: dict[str, Tensor]


def _sorted(tensors: Mapping[str, Tensor], spec: BackboneSpec, reasons: list[str]) -> _Found:
    pairs: dict[str, dict[str, Tensor]] = {}
    head: dict[str, Tensor] = {}
    (classifier, *others) = spec.classifiers
    if others:
        reasons.append("the backbone has two classifiers; an adapter has one head")
    for full, tensor in sorted(tensors.items()):
        name = full.removeprefix(_PREFIX)
        plain = name.replace(".modules_to_save.default", "").replace(".modules_to_save", "")
        if not torch.isfinite(tensor.float()).all():
            reasons.append(f"{name} holds NaN or infinities")
        elif match := _FACTOR.fullmatch(name):
            pairs.setdefault(match["path"], {})[match["factor"]] = tensor.float()
        elif plain in (f"{classifier}.weight", f"{classifier}.bias"):
            head[plain.rpartition(".")[2]] = tensor.float()
        else:
            reasons.append(f"{name[:100]} is neither a LoRA factor nor the classifier")
    return _Found(pairs, head)


def _fits(
    path: str,
    pair: Mapping[str, Tensor],
    config: Mapping[str, Any],
    spec: BackboneSpec,
    reasons: list[str],
) -> bool:
    """Whether A and B belong to a target of the backbone; else a reason is added."""
    target = next((t for t in spec.targets if t.path == path), None)
    if target is None:
        reasons.append(f"{path[:100]} is no target of {spec.ref.name}")
    elif set(pair) != {"A", "B"}:
        reasons.append(f"{path} has lora_{min(pair)} alone")
    elif pair["A"].ndim != 2 or pair["B"].ndim != 2:
        reasons.append(f"{path}: its factors are no matrices")
    else:
        rank = pair["A"].shape[0]
        wanted = ((rank, target.inputs), (target.outputs, rank))
        got = (tuple(pair["A"].shape), tuple(pair["B"].shape))
        said = _patterned(path, config.get("rank_pattern") or {}, config.get("r"))
        if got != wanted:
            reasons.append(f"{path}: factors of shapes {got}, where {wanted} fit")
        elif rank != said:
            reasons.append(f"{path}: factors of rank {rank}, the configuration says {said}")
        else:
            return True
    return False


def _head(
    found: Mapping[str, Tensor],
    spec: BackboneSpec,
    labels: tuple[str, ...] | None,
    reasons: list[str],
) -> dict[str, NDArray[Any]]:
    weight, bias = found.get("weight"), found.get("bias")
    if weight is None:
        wanted = ", ".join(spec.classifiers)
        reasons.append(f"there is no classifier: train with modules_to_save=[{wanted!r}]")
        return {HEAD_BIAS: np.zeros(0, np.float32)}
    bias = torch.zeros(len(weight)) if bias is None else bias
    if weight.ndim != 2 or weight.shape[1] != spec.features or bias.shape != weight.shape[:1]:
        reasons.append(
            f"the classifier's shapes {tuple(weight.shape)} and {tuple(bias.shape)} do not fit "
            f"{spec.features} features"
        )
    if labels is not None and len(labels) != len(weight):
        reasons.append(f"{len(labels)} labels for a classifier of {len(weight)} rows")
    return {HEAD_WEIGHT: weight.numpy(), HEAD_BIAS: bias.numpy()}


def _scaling(path: str, rank: int, config: Mapping[str, Any]) -> float:
    alpha = float(_patterned(path, config.get("alpha_pattern") or {}, config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _patterned(path: str, patterns: Mapping[str, Any], default: Any) -> Any:
    """PEFT's rule: the first pattern that matches a whole tail of the path."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _stored(factor: Tensor) -> NDArray[Any]:
    """In float16 where that loses nothing: an import gives what its author measured."""
    single = factor.numpy()
    with np.errstate(over="ignore"):
        half = single.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), single) else single


def _word(value: Any) -> str:
    return "".join(c for c in str(value)[:40] if c.isprintable())


def _unlike_lora(form: LinearForm) -> Iterator[str]:
    if form.P:
        yield "it acts in front of the layer, a LoRA beside it"
    if any(t is not None for t in (form.alpha, form.c, form.gamma, form.beta)):
        yield "it scales or shifts, a LoRA does not"
    if not all(isinstance(op, LowRank) for op in form.Q):
        yield "its Kronecker products would have to be expanded"


def _joined(form: LinearForm, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """One pair (A [r, in], B [out, r]) for the sum of low-rank operators, cores folded in."""
    downs, ups = [], []
    for op in form.Q:
        assert isinstance(op, LowRank)
        code = op.down if op.core is None else op.core @ op.down
        down = code.new_zeros(code.shape[0], inputs)
        down[:, slice(None) if op.cols is None else op.cols] = code
        up = op.up.new_zeros(outputs, op.up.shape[1])
        up[slice(None) if op.rows is None else op.rows] = op.up
        downs.append(down)
        ups.append(up)
    return torch.cat(downs).contiguous(), torch.cat(ups, dim=1).contiguous()
