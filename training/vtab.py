"""VTAB-1k: its nineteen tasks and the two averages over them. Knows no image and no method.

Names are the folders of the releases that NOAH and SSF made of it (methods.md §8). Both averages
are in use, so a number without the name of its average says little (§1.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Final, Literal

from training.errors import LayoutUnknownError, ScoresIncompleteError

Group = Literal["natural", "specialized", "structured"]


@dataclass(frozen=True, slots=True)
class Task:
    """One task of VTAB-1k: 800 images to train on, 200 to choose settings on, and a test split."""

    name: str  # of its folder
    classes: int
    group: Group
    also: tuple[str, ...] = ()  # other names in use


TASKS: Final = (
    Task("cifar", 100, "natural", ("cifar100",)),
    Task("caltech101", 102, "natural"),
    Task("dtd", 47, "natural"),
    Task("oxford_flowers102", 102, "natural", ("flowers102",)),
    Task("oxford_iiit_pet", 37, "natural", ("pets",)),
    Task("svhn", 10, "natural"),
    Task("sun397", 397, "natural"),
    Task("patch_camelyon", 2, "specialized"),
    Task("eurosat", 10, "specialized"),
    Task("resisc45", 45, "specialized"),
    Task("diabetic_retinopathy", 5, "specialized", ("retinopathy",)),
    Task("clevr_count", 8, "structured"),
    Task("clevr_dist", 6, "structured"),
    Task("dmlab", 6, "structured"),
    Task("kitti", 4, "structured"),
    Task("dsprites_loc", 16, "structured"),
    Task("dsprites_ori", 16, "structured"),
    Task("smallnorb_azi", 18, "structured"),
    Task("smallnorb_ele", 9, "structured"),
)
GROUPS: Final[tuple[Group, ...]] = ("natural", "specialized", "structured")

_NAMED: Final[Mapping[str, Task]] = MappingProxyType(
    {name: task for task in TASKS for name in (task.name, *task.also)}
)


def task_named(name: str) -> Task:
    """The task of this name.

    Raises:
        LayoutUnknownError: VTAB-1k has none.
    """
    if name not in _NAMED:
        raise LayoutUnknownError(f"vtab:{name}", tuple(f"vtab:{t.name}" for t in TASKS))
    return _NAMED[name]


def mean19(scores: Mapping[str, float]) -> float:
    """The mean over the nineteen tasks, as VPT, SSF and ARC report it.

    Args:
        scores: task name → score.

    Raises:
        ScoresIncompleteError: a task is missing, or is none of VTAB-1k's.
    """
    return fmean(_complete(scores).values())


def group_means(scores: Mapping[str, float]) -> dict[Group, float]:
    """The mean of each group of tasks.

    Raises:
        ScoresIncompleteError: a task is missing, or is none of VTAB-1k's.
    """
    whole = _complete(scores)
    return {group: fmean(whole[t.name] for t in TASKS if t.group == group) for group in GROUPS}


def mean3(scores: Mapping[str, float]) -> float:
    """The mean of the three groups' means, as NOAH, FacT and RepAdapter report it.

    Raises:
        ScoresIncompleteError: a task is missing, or is none of VTAB-1k's.
    """
    return fmean(group_means(scores).values())


def _complete(scores: Mapping[str, float]) -> dict[str, float]:
    found = {_NAMED[name].name: score for name, score in scores.items() if name in _NAMED}
    missing = tuple(task.name for task in TASKS if task.name not in found)
    unknown = tuple(name for name in scores if name not in _NAMED)
    if missing or unknown:
        raise ScoresIncompleteError(missing, unknown)
    return found
