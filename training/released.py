"""What papers released task by task: settings to start from. Knows no image and no recipe.

The numbers of methods.md §11 and §9, for ViT-B/16 pre-trained on ImageNet-21k. The scale spans four
orders of magnitude and matters more than the method, so it is worth a start; on another backbone
it is no more than that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from training.errors import LayoutUnknownError
from training.vtab import task_named

Rank = int
Scale = float


@dataclass(frozen=True, slots=True)
class Schedule:
    """What SSF chose by task."""

    lr: float
    weight_decay: float
    drop_path: float


@dataclass(frozen=True, slots=True)
class Row:
    """One task of VTAB-1k."""

    repadapter: tuple[Scale, Scale]  # in front of attention and MLP | of attention alone
    fact_tt: tuple[Rank, Scale]
    fact_tk: tuple[Rank, Scale]
    bi_lora: Scale  # at rank 32
    ssf: Schedule


VTAB: Final[Mapping[str, Row]] = MappingProxyType(
    {
        "cifar": Row((0.1, 0.1), (8, 1), (32, 0.1), 0.1, Schedule(5e-3, 5e-5, 0)),
        "caltech101": Row((5, 10), (16, 10), (32, 10), 10, Schedule(1e-3, 5e-2, 0.1)),
        "dtd": Row((1, 0.1), (8, 0.01), (16, 0.01), 0.01, Schedule(5e-3, 5e-5, 0)),
        "oxford_flowers102": Row((0.5, 0.5), (16, 1), (32, 1), 1, Schedule(5e-3, 5e-5, 0)),
        "oxford_iiit_pet": Row((0.1, 0.5), (8, 1), (16, 10), 0.1, Schedule(5e-3, 5e-5, 0)),
        "svhn": Row((10, 10), (16, 100), (32, 100), 10, Schedule(1e-2, 5e-5, 0)),
        "sun397": Row((0.1, 0.1), (8, 1), (16, 1), 0.1, Schedule(5e-3, 5e-5, 0)),
        "patch_camelyon": Row((1, 0.5), (8, 10), (32, 10), 10, Schedule(5e-3, 5e-5, 0)),
        "eurosat": Row((1, 5), (8, 100), (32, 100), 10, Schedule(3e-3, 5e-2, 0.2)),
        "resisc45": Row((5, 0.1), (8, 0.1), (32, 10), 10, Schedule(2e-3, 5e-5, 0.1)),
        "diabetic_retinopathy": Row((0.1, 0.5), (8, 1), (16, 1), 10, Schedule(5e-3, 5e-5, 0.2)),
        "clevr_count": Row((0.5, 1), (16, 1), (32, 10), 1, Schedule(2e-3, 5e-2, 0.1)),
        "clevr_dist": Row((0.1, 0.1), (4, 10), (16, 10), 0.1, Schedule(5e-2, 5e-2, 0.1)),
        "dmlab": Row((5, 5), (16, 10), (32, 10), 10, Schedule(5e-3, 5e-5, 0.1)),
        "kitti": Row((5, 1), (16, 10), (32, 10), 10, Schedule(1e-2, 5e-5, 0)),
        "dsprites_loc": Row((5, 10), (16, 100), (32, 100), 1, Schedule(1e-2, 5e-5, 0)),
        "dsprites_ori": Row((0.1, 5), (16, 1), (32, 1), 0.1, Schedule(5e-3, 5e-5, 0.2)),
        "smallnorb_azi": Row((10, 10), (16, 100), (32, 100), 10, Schedule(2e-2, 5e-5, 0.1)),
        "smallnorb_ele": Row((1, 1), (8, 10), (16, 10), 1, Schedule(5e-3, 5e-2, 0.2)),
    }
)

# SSF also smoothed labels by 0.1 and averaged weights over steps on these, which is not done here.
FGVC_SSF: Final[Mapping[str, Schedule]] = MappingProxyType(
    {
        "cub": Schedule(1e-2, 5e-2, 0),
        "nabirds": Schedule(2e-4, 5e-2, 0.1),
        "flowers": Schedule(1e-2, 5e-2, 0.1),
        "cars": Schedule(2e-2, 5e-2, 0),
        "dogs": Schedule(2.5e-4, 5e-2, 0),
    }
)
FGVC_ARC: Final[Mapping[str, float]] = MappingProxyType({"lr": 5e-3, "weight_decay": 1e-2})
# Crops are drawn from the short side at 256 and the middle of it is measured (methods.md §9).
FGVC_IMAGES: Final[Mapping[str, str]] = MappingProxyType(
    {"augment": "crop_flip", "geometry": "timm"}
)

# How the published numbers scale inputs (methods.md §1.4). Not set by a start: it belongs to the
# weights, and a backbone knows its own.
NORMALISED: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("lora", "repadapter", "fact_tt", "fact_tk", "arc"), "imagenet"),
        **dict.fromkeys(("ssf", "karst"), "half"),
        **dict.fromkeys(("bi_lora", "heart_lora"), "none"),
    }
)


@dataclass(frozen=True, slots=True)
class Start:
    """Settings that are released for a method on a task."""

    settings: Mapping[str, Any]  # options of the method and fields of the recipe
    says: str  # one line for the user


def released(method: str, layout: str, given: Mapping[str, Any]) -> Start | None:
    """What is released of this method for this task, or nothing.

    Args:
        method: a row of METHODS, or "full".
        layout: `vtab:<task>` or `fgvc:<data set>`.
        given: settings that the user chose; RepAdapter's scale follows from its placement.

    Raises:
        LayoutUnknownError: there is no such task.
    """
    kind, _, name = layout.partition(":")
    if kind == "vtab":
        settings = _vtab(method, VTAB[task_named(name).name], given)
    elif kind == "fgvc" and name in FGVC_SSF:
        own = _scheduled(FGVC_SSF[name]) if method == "ssf" else {}
        settings = {**FGVC_IMAGES, **(FGVC_ARC if method == "arc" else own)}
    else:
        known = ("vtab:<task>", *(f"fgvc:{n}" for n in FGVC_SSF))
        raise LayoutUnknownError(layout, known)
    if not settings:
        return None
    listed = ", ".join(f"{key}={value}" for key, value in settings.items() if key not in given)
    scaled = NORMALISED.get(method)
    return Start(
        settings=MappingProxyType(settings),
        says=f"{method} starts from what is released for {layout}: {listed or 'all set otherwise'}"
        + (f" (published with normalise={scaled})" if scaled else ""),
    )


def _vtab(method: str, row: Row, given: Mapping[str, Any]) -> dict[str, Any]:
    if method == "repadapter":
        return {"scale": row.repadapter[given.get("placement", "both") == "attention"]}
    if method in ("fact_tt", "fact_tk"):
        rank, scale = row.fact_tt if method == "fact_tt" else row.fact_tk
        return {"rank": rank, "scale": scale}
    if method == "bi_lora":
        return {"scale": row.bi_lora}
    return _scheduled(row.ssf) if method == "ssf" else {}


def _scheduled(chosen: Schedule) -> dict[str, float]:
    return {
        "lr": chosen.lr,
        "weight_decay": chosen.weight_decay,
        "drop_path": chosen.drop_path,
    }
