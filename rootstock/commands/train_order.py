"""What `rootstock train` was asked for, checked before anything is read. Knows no image."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters_store.spec import BackboneSpec
    from training.acts import Hands
    from training.protocol import Point
    from training.watch import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The runs that are asked for."""

    method: str
    layout: str | None
    points: "tuple[Point, ...]"  # at least one; more are searched
    seeds: tuple[int, ...]  # of the final runs
    campaign: bool  # final runs learn from train and val; else a run as it is, val reported
    says: tuple[str, ...]  # what the user should know before it begins


def ordered(
    method: str,
    layout: str | None,
    settings: Mapping[str, Any],
    sweep: Sequence[str],
    seeds: int | None,
    precision: str,
) -> Order:
    """The order, every point of its sweep composed and in range.

    Args:
        method: a row of METHODS, or full.
        layout: of the data; what is released for it is where settings start.
        settings: from `--set` and its kin.
        sweep: `key=v1,v2` texts.
        seeds: how many final runs; None without `--seeds`.
        precision: where nothing is set.

    Raises:
        TrainingError: the first fault, in the user's words.
    """
    from training.errors import RecipeInvalidError
    from training.protocol import POINTS_MANY, SEEDS_MAX, Point, grid, parse_axes, seeds_from

    axes = parse_axes(sweep, method)
    if both := [key for key in axes if key in settings]:
        raise RecipeInvalidError(tuple(f"{key} is both set and swept" for key in both))
    if seeds is not None and seeds > SEEDS_MAX:
        raise RecipeInvalidError((f"{seeds} seeds; at most {SEEDS_MAX} are run",))
    points, says = [], []
    for chosen in grid(axes):
        options, recipe, start = _composed(
            method, layout, {"precision": precision, **settings, **chosen}
        )
        points.append(Point(settings=chosen, options=options, recipe=recipe))
        if start and start not in says:
            says.append(start)
    if len(points) > POINTS_MANY:
        says.append(
            f"warning: {len(points)} points; the best of so many fits the validation images by "
            "luck as much as by merit"
        )
    return Order(
        method=method,
        layout=layout,
        points=tuple(points),
        seeds=seeds_from(points[0].recipe.seed, seeds or 1),
        campaign=bool(axes) or seeds is not None,
        says=tuple(says),
    )


def check(order: Order, task: str, spec: "BackboneSpec") -> None:
    """Whether every point fits the backbone.

    Raises:
        NameInvalidError, MethodUnknownError, RecipeInvalidError
    """
    from adapters_store.errors import NameInvalidError
    from adapters_store.manifest import TASK_NAME
    from adapters_store.methods.table import parse_options
    from training.full import FULL
    from training.run import check_task

    if order.method == FULL:
        if not TASK_NAME.fullmatch(task):
            raise NameInvalidError(task, TASK_NAME.pattern)
        return
    for point in order.points:
        check_task(task, order.method, parse_options(order.method, point.options), spec)


def handed(
    watching: "Callable[[str], Watch]",
    *,
    workers: int,
    data_parallel: int,
    threads: int,
    address: str | None,
) -> "Hands":
    """Who does the work: this process, or Ray's."""
    from training.acts import Here

    if workers == 1 and data_parallel == 1 and address is None:
        return Here(watching)
    from training.launcher import Crew

    together = data_parallel > 1
    count = data_parallel if together else workers
    return Crew(
        workers=count,
        threads=threads or max(1, (os.cpu_count() or 1) // count),
        watching=watching,
        together=together,
        address=address,
    )


def settled_threads(threads: int) -> str:
    """What the device is fast in, its threads having been set."""
    import torch

    from training.trunk import default_device, native_precision

    if threads:
        torch.set_num_threads(threads)
    return native_precision(default_device())


def _composed(
    method: str, layout: str | None, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], Any, str | None]:
    from training.errors import SettingUnknownError
    from training.full import FULL
    from training.recipe import FULL as FULL_RECIPE
    from training.recipe import Recipe, changed, compose
    from training.recipe import check as check_recipe
    from training.released import released

    given = {k: v for k, v in settings.items() if k != "precision"}
    start = released(method, layout, given) if layout else None
    if method != FULL:
        options, recipe = compose(method, settings, layout=layout)
        return options.model_dump(mode="json"), recipe, start.says if start else None
    for key in settings:
        if key not in Recipe.model_fields:
            raise SettingUnknownError(key, method, tuple(sorted(Recipe.model_fields)))
    recipe = changed(FULL_RECIPE, {**(start.settings if start else {}), **settings})
    check_recipe(method, recipe)
    return {}, recipe, start.says if start else None
