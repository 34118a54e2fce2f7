"""The frozen timm network: how it is named, built, digested. Knows no adapter and no task."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from adapters_store.errors import BackboneUnavailableError
from adapters_store.families import AFFINES, CLASSES, FAMILIES, Patterns, role_of
from adapters_store.hub import skip_if_unreachable
from adapters_store.manifest import BACKBONE_NAME, BackboneRef
from adapters_store.spec import BackboneSpec, Target

NANO: Final = "rootstock_nano"
_NANO_FOLDER: Final = Path(__file__).parent / "nano"
_PARAMETERS_MOST: Final = 1_500_000_000  # ViT-g/14 has 1.1e9
_NO_DIGEST: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network with frozen weights, in eval mode, and the shape adapters see of it.

    `net` maps float images [B, 3, H, W] to features through `features`; it has no classifier.
    """

    net: nn.Module
    spec: BackboneSpec

    def features(self, images: Tensor) -> Tensor:
        """What heads read: [B, 3, H, W] normalised floats → [B, features]."""
        return features(self.net, images)

    def twin(self) -> nn.Module:
        """A second tree of modules over the same weights, so that one tree can be altered."""
        return twin(self.net)


def features(net: nn.Module, images: Tensor) -> Tensor:
    """The vector in front of the classifier, for any timm network."""
    pooled: Tensor = net.forward_head(net.forward_features(images), pre_logits=True)  # type: ignore[operator]
    return pooled


def twin(net: nn.Module) -> nn.Module:
    """A copy of the module tree that shares every parameter and buffer with `net`."""
    shared = {id(t): t for t in (*net.parameters(), *net.buffers())}
    return copy.deepcopy(net, shared)


def load(name: str = NANO, weights: Path | None = None, **kwargs: Any) -> Backbone:
    """The named backbone with its weights, float32, frozen, in eval mode.

    Args:
        name: a timm model name, or `rootstock_nano` (bundled, needs no network).
        weights: a safetensors file of the state dict; without it timm asks the Hugging Face hub.
        kwargs: passed to `timm.create_model`.

    Raises:
        BackboneUnavailableError: unknown name, unreachable hub, weights that do not fit, or a
            network whose family has no target map.
    """
    if name == NANO:
        weights = weights or _NANO_FOLDER / f"{NANO}.safetensors"
        name, bundled = _bundled()
        kwargs = {**bundled, **kwargs}
    kwargs = {k: v for k, v in kwargs.items() if k != "num_classes"}
    net = _create(name, kwargs, pretrained=weights is None)
    if weights is not None:
        _fill(net, name, weights)
    net.eval().requires_grad_(requires_grad=False)
    return Backbone(net, _spec(net, name, kwargs, weights_digest(net)))


def for_manifest(ref: BackboneRef, weights: Path | None = None) -> Backbone:
    """The backbone that an adapter was made for.

    Without a file, the bundled weights are used where they are the ones, else timm's hub is asked.
    Whether the digest fits is for admission to say.

    Raises:
        BackboneUnavailableError: see `load`.
    """
    if weights is None and (ref.name, ref.kwargs) == _bundled():
        return load(NANO)
    kwargs: dict[str, Any] = {**ref.kwargs}  # type: ignore[dict-item]
    with torch.device("meta"):
        hollow = _create(ref.name, kwargs, pretrained=False)
    size = sum(parameter.numel() for parameter in hollow.parameters())
    if size > _PARAMETERS_MOST:  # an artifact names it, and its numbers are modest one by one
        reason = f"it has {size:,} parameters; at most {_PARAMETERS_MOST:,} are built"
        raise BackboneUnavailableError(ref.name, reason)
    return load(ref.name, weights, **ref.kwargs)


def describe(name: str = NANO, **kwargs: Any) -> BackboneSpec:
    """The shape of a backbone without its weights; its digest is all zeros.

    Raises:
        BackboneUnavailableError: unknown name, or a family without a target map.
    """
    if name == NANO:
        name, bundled = _bundled()
        kwargs = {**bundled, **kwargs}
    with torch.device("meta"):
        net = _create(name, kwargs, pretrained=False)
    return _spec(net, name, kwargs, _NO_DIGEST)


def random(name: str, seed: int = 0, **kwargs: Any) -> Backbone:
    """The named network with seeded random weights: for benchmarks and tests of shape and speed."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        net = _create(name, kwargs, pretrained=False)
    net.eval().requires_grad_(requires_grad=False)
    return Backbone(net, _spec(net, name, kwargs, weights_digest(net)))


def weights_digest(net: nn.Module) -> str:
    """Sha256 over name, shape and float32 little-endian bytes of every parameter, by name.

    Buffers and the classifier are left out: the first are recomputed, the second is the task's.
    """
    proof = hashlib.sha256()
    classifier = _classifier_prefixes(net)
    for name, parameter in sorted(net.named_parameters()):
        if name.startswith(classifier):
            continue
        values = parameter.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4")
        shape = ",".join(str(n) for n in parameter.shape)
        proof.update(f"{name}\n{shape}\n".encode())
        proof.update(values.tobytes())
    return proof.hexdigest()


def _bundled() -> tuple[str, dict[str, Any]]:
    """Timm's name for the bundled backbone, and what `create_model` is given for it."""
    card = json.loads((_NANO_FOLDER / f"{NANO}.json").read_text())
    kwargs = {k: v for k, v in card["timm_kwargs"].items() if k != "num_classes"}
    return card["timm_model"], kwargs


def _create(name: str, kwargs: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
    if not BACKBONE_NAME.fullmatch(name):  # no hub path, no folder: whoever gave it
        raise BackboneUnavailableError(name[:100], "this is no plain timm name")
    if pretrained:
        skip_if_unreachable()
    try:
        net: nn.Module = timm.create_model(
            name, pretrained=pretrained, **{**kwargs, "num_classes": 0}
        )
    except (RuntimeError, TypeError, ValueError) as error:
        if pretrained and timm.is_model(name.partition(".")[0]):
            raise _hub_error(name, error) from error
        reason = f"timm cannot build it: {str(error)[:200]}"
        raise BackboneUnavailableError(name, reason) from None
    except Exception as error:
        if pretrained:
            raise _hub_error(name, error) from error
        reason = f"timm cannot build it: {str(error)[:200]}"
        raise BackboneUnavailableError(name, reason) from error
    return net


def _hub_error(name: str, error: Exception) -> BackboneUnavailableError:
    reason = (
        "its weights could not be fetched from the Hugging Face hub "
        f"({type(error).__name__}); where the hub cannot be reached, pass --weights FILE with a "
        f"safetensors state dict, or use the bundled backbone {NANO!r}"
    )
    return BackboneUnavailableError(name, reason)


def _fill(net: nn.Module, name: str, weights: Path) -> None:
    """Load a state dict strictly, a classifier in the file being the only thing left over."""
    try:
        state = load_file(weights)
    except FileNotFoundError:
        raise BackboneUnavailableError(name, f"no such file: {weights.name}") from None
    except Exception as error:  # noqa: BLE001 (safetensors has a class for each kind of damage)
        reason = f"{weights.name} is not a readable safetensors file: {str(error)[:120]}"
        raise BackboneUnavailableError(name, reason) from None
    classifier = _classifier_prefixes(net)
    state = {k: v.to(torch.float32) for k, v in state.items() if not k.startswith(classifier)}
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        reason = f"{weights.name} does not fit: {' '.join(lines)[:300]}"
        raise BackboneUnavailableError(name, reason) from None


def _classifiers(net: nn.Module) -> tuple[str, ...]:
    """Module paths of timm's own classifier; a distilled network has two."""
    names = getattr(net, "pretrained_cfg", {}).get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def _classifier_prefixes(net: nn.Module) -> tuple[str, ...]:
    return tuple(f"{n}." for n in _classifiers(net))


def _spec(net: nn.Module, name: str, kwargs: Mapping[str, Any], digest: str) -> BackboneSpec:
    family = CLASSES.get(type(net).__name__)
    if family is None:
        known = ", ".join(sorted(set(CLASSES.values())))
        reason = f"no target map for {type(net).__name__} networks; there are maps for: {known}"
        raise BackboneUnavailableError(name, reason)
    targets = _targets(net, FAMILIES[family], (nn.Linear,))
    if {t.role for t in targets} != set(FAMILIES[family]):
        reason = f"a {type(net).__name__} without the linear layers of the {family} family"
        raise BackboneUnavailableError(name, reason)
    config = resolve_model_data_config(net)
    embed = getattr(net, "patch_embed", getattr(net, "stem", None))
    height, width = getattr(embed, "img_size", None) or config["input_size"][1:]
    return BackboneSpec(
        ref=BackboneRef(name=name, kwargs=dict(kwargs), digest=digest),
        family=family,
        input_size=(int(height), int(width)),
        features=int(net.num_features),  # type: ignore[arg-type]
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=float(config["crop_pct"]),
        targets=targets,
        affines=_targets(net, AFFINES.get(family, {}), (nn.LayerNorm, nn.Conv2d)),
        classifiers=_classifiers(net),
    )


def _targets(
    net: nn.Module, patterns: Patterns, kinds: tuple[type[nn.Module], ...]
) -> tuple[Target, ...]:
    """The modules of these kinds that the patterns name, in the order of the network."""
    targets, blocks = [], dict[tuple[int, ...], int]()
    for path, module in net.named_modules():
        found = role_of(patterns, path)
        if found is None or not isinstance(module, kinds):
            continue
        assert isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d)
        role, numbers = found
        attention = net.get_submodule(path.rpartition(".")[0]) if role == "qkv" else None
        linear = isinstance(module, nn.Linear)
        targets.append(
            Target(
                path=path,
                role=role,
                block=blocks.setdefault(numbers, len(blocks)) if numbers else 0,
                outputs=module.weight.shape[0],
                inputs=module.weight.shape[1] if linear else 0,
                bias=module.bias is not None,
                stage=numbers[0] if len(numbers) > 1 else 0,
                heads=int(getattr(attention, "num_heads", 0)),
            )
        )
    return tuple(targets)
