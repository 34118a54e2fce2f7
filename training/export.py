"""From trained tensors to the bytes of an artifact. Knows no training loop and no store.

Nothing is written that was not tried: factors are rounded first, and then the accuracy, the law
and the golden images are computed with the rounded factors.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters_store import admission, artifact, law, plain
from adapters_store.adapter import HEAD_BIAS, HEAD_WEIGHT, Adapter
from adapters_store.backbone import Backbone
from adapters_store.effect import Golden, relative
from adapters_store.errors import LawBrokenError
from adapters_store.law import LawReport
from adapters_store.manifest import Manifest, Provenance
from adapters_store.methods.protocol import AdapterModule, MethodOptions
from adapters_store.methods.table import method_named
from training.data import TaskData
from training.errors import DivergedError
from training.evaluate import score
from training.loop import Fitted
from training.recipe import Recipe
from training.versions import versions

LAW_IMAGES: Final = 8
_F16_MOST: Final = 65_504.0
_F16_LOSS: Final = 2.0**-10  # relative L2; rounding normal numbers costs at most half of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An artifact that was held to the law and admitted, and how it was found."""

    adapter: Adapter
    data: bytes  # of the artifact
    report: LawReport


def export(
    fitted: Fitted,
    backbone: Backbone,
    data: TaskData,
    *,
    task: str,
    method: str,
    options: MethodOptions,
    recipe: Recipe,
    device: torch.device,
    protocol: Mapping[str, Any] | None = None,
) -> Exported:
    """Round, measure, prove, record and write.

    Args:
        fitted: what was trained.
        backbone: what it was trained on.
        data: every split of it is measured, once.
        task: the name it will be published under.
        method: a row of METHODS.
        options: of the method.
        recipe: as it was used.
        device: where accuracy is measured.
        protocol: how settings were chosen and seeds drawn: JSON, recorded with the recipe.

    Raises:
        DivergedError: a trained number is NaN or infinite.
        LawBrokenError: training module, normal form and merged weights do not agree.
        EffectFailedError: the factors change nothing.
    """
    kinds = method_named(method)
    tensors = {
        name: stored(tensor, exact=name.rpartition(".")[2] in kinds.exact)
        for name, tensor in fitted.module.export().items()
    }
    tensors[HEAD_WEIGHT] = _f32(fitted.head.weight)
    tensors[HEAD_BIAS] = _f32(fitted.head.bias)
    if not all(np.isfinite(t).all() for t in tensors.values() if t.dtype.kind == "f"):
        raise DivergedError(method, recipe.epochs)
    draft = Adapter(
        manifest=Manifest(
            task=task,
            method=method,
            options=options.model_dump(mode="json"),
            backbone=backbone.spec.ref,
            preprocess=recipe.preprocess(backbone.spec),
            labels=data.classes,
            provenance=Provenance(
                data=data.digest,
                seed=recipe.seed,
                recipe=_recorded(recipe, protocol),
                versions=versions(),
            ),
        ),
        tensors=tensors,
    )
    pictures = (data.val or data.train).images[:LAW_IMAGES]
    module = reloaded(fitted.module, draft.factors)
    if (gap := apart(module, draft.factors)) > law.BOUND:
        raise LawBrokenError(method, gap, law.BOUND)
    trial = plain.answers(plain.sited(backbone.net, module), draft, pictures)
    report = law.check(backbone, draft, pictures, trial)
    golden = Golden(backbone)
    effect = golden.record(draft)
    metrics = {
        name: score(backbone, draft, split, device=device).accuracy
        for name, split in sorted(data.splits.items())
    }
    manifest = draft.manifest.model_copy(update={"metrics": metrics, "effect": effect})
    adapter = Adapter(manifest=manifest, tensors=tensors)
    golden.check(adapter, np.asarray(effect.logits, dtype=np.float32))
    written = artifact.write(adapter)
    return Exported(
        adapter=admission.admit(written, backbone.spec, task=task), data=written, report=report
    )


def stored(tensor: Tensor, *, exact: bool = False) -> NDArray[Any]:
    """A factor as it is kept: float16, or float32 where float16 would over- or underflow.

    Packed bytes stay as they are, and affine terms (`exact`) are kept in float32.

    The rule: float16 if no value exceeds its range and all values together lose no more than
    2⁻¹⁰ of their L2 norm, which only values below float16's normal range can make them lose.
    """
    if tensor.dtype == torch.uint8:
        return tensor.cpu().numpy().copy()
    single = _f32(tensor)
    if exact or not np.isfinite(single).all() or np.abs(single).max(initial=0) > _F16_MOST:
        return single
    half = single.astype(np.float16)
    wide = single.astype(np.float64)
    lost = np.linalg.norm(half.astype(np.float64) - wide)
    return half if lost <= _F16_LOSS * np.linalg.norm(wide) else single


def reloaded(module: AdapterModule, factors: dict[str, NDArray[Any]]) -> AdapterModule:
    """A copy of the training module that holds these stored factors instead of its own."""
    copied = copy.deepcopy(module)
    copied.load({name: torch.from_numpy(_wide(factor)) for name, factor in factors.items()})
    return copied


def apart(module: AdapterModule, factors: dict[str, NDArray[Any]]) -> float:
    """How far what a module would export lies from these factors, at worst; relative L2.

    Nothing but rounding, unless export does more than scale: then the law alone would not see it.
    """
    again = module.export()
    return max((relative(_f32(again[n]), _wide(f)) for n, f in factors.items()), default=0.0)


def _recorded(recipe: Recipe, protocol: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the numbers hang on: not what the manifest says elsewhere, nor how memory was saved."""
    settings = recipe.model_dump(mode="json", exclude={"seed", "geometry", "recompute"})
    return settings if protocol is None else {**settings, "protocol": dict(protocol)}


def _wide(factor: NDArray[Any]) -> NDArray[Any]:
    return factor.astype(np.float32) if factor.dtype.kind == "f" else factor


def _f32(tensor: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    return values
