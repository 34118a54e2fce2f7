"""Training a method: images in, trained sites and a head out. Knows no artifact.

Seeded: on one CPU with one thread count, the same inputs give the same bits, whether the run was
broken off and resumed or not. The caller's random numbers are not touched, and neither is the
backbone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adapters_store.backbone import Backbone
from adapters_store.methods.protocol import AdapterModule, MethodOptions
from adapters_store.methods.table import method_named
from training.behaviours import behaviour_of
from training.checkpoint import Checkpoint, Keeper
from training.data import TaskData
from training.feed import Feed
from training.identity import grounds
from training.ranks import ALONE, Ranks
from training.recipe import Recipe
from training.room import within_memory
from training.steps import Drawn, Features, Learner, run
from training.trunk import Trunk, placed
from training.watch import Epoch, Watch

__all__ = ["Epoch", "Features", "Fitted", "Watch", "fit", "live", "remembered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What was trained, on the CPU and in eval mode."""

    module: AdapterModule
    head: nn.Linear  # features → classes, fp32
    log: tuple[Epoch, ...]


def fit(
    backbone: Backbone,
    method: str,
    options: MethodOptions,
    data: TaskData,
    recipe: Recipe,
    *,
    device: torch.device,
    watch: Watch,
    checkpoint: Checkpoint | None = None,
    ranks: Ranks = ALONE,
) -> Fitted:
    """Train the method's sites and a head on the frozen backbone; the last epoch is kept.

    Args:
        backbone: stays as it is.
        method: a row of METHODS.
        options: of the method.
        data: in the backbone's input size.
        recipe: see `training.recipe`.
        device: where it is trained.
        watch: is told of every step and epoch.
        checkpoint: where the run is kept, if it is; of several processes the first one writes it,
            and all must be able to read it.
        ranks: this process among those that train the task together.

    Raises:
        DivergedError: the loss is no longer a number.
        MemoryExhaustedError: a step does not fit.
        CheckpointInvalidError: what is to be resumed is damaged, or another run's.
    """
    with within_memory(device, recipe.batch), seeded(recipe.seed, device):
        frozen = placed(backbone, device)
        module = method_named(method).module(options, backbone.spec, recipe.dropout).to(device)
        trunk = Trunk(
            frozen,
            module,
            recipe.preprocess(backbone.spec),
            drop_path=recipe.drop_path,
            precision=recipe.precision,
            recompute=recipe.recompute,
        )
        feeds = fed(data, recipe, device)
        read, drawn = live(trunk, feeds), chance(trunk, feeds)
        if not module.paths and recipe.augment == "none":
            read = remembered(trunk, feeds, recipe.batch)
            drawn = partial(_unchanged, read)
        learner = Learner(
            method=method,
            body=module,
            head=blank_head(backbone, data, device),
            trunk=trunk,
            read=read,
            drawn=drawn,
            feeds=feeds,
            behaviour=behaviour_of(method, module, recipe),
        )
        told = {"method": method, "options": options.model_dump(mode="json")}
        keeper = kept(checkpoint, told, backbone, data, recipe, ranks)
        apart(recipe.seed, ranks)
        log = run(learner, recipe, watch, ranks, keeper)
    return Fitted(module=module.cpu().eval(), head=learner.head.cpu(), log=log)


def live(trunk: Trunk, feeds: Mapping[str, Feed]) -> Features:
    """Features computed anew for every batch, with gradients to the sites."""
    return lambda split, rows: trunk.features(feeds[split].images(rows))


def chance(trunk: Trunk, feeds: Mapping[str, Feed]) -> Drawn:
    """The same, of training images as an epoch has them."""
    return lambda rows, epoch: trunk.features(feeds["train"].drawn(rows, epoch))


def remembered(trunk: Trunk, feeds: Mapping[str, Feed], batch: int) -> Features:
    """Features computed once: exact where nothing in front of the head is trained."""
    trunk.train(on=False)
    table: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, feed in feeds.items():
            parts = torch.split(torch.arange(len(feed)), batch)
            table[name] = torch.cat([trunk.features(feed.images(rows)) for rows in parts])
    return lambda split, rows: table[split][rows.to(table[split].device)]


def _unchanged(read: Features, rows: Tensor, _epoch: int) -> Tensor:
    return read("train", rows)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, random numbers come from the seed; outside they go on as if nothing had been."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def apart(seed: int, ranks: Ranks) -> None:
    """From here on, each process but the first draws numbers of its own."""
    if not ranks.first:
        torch.manual_seed(seed + ranks.rank)


def fed(data: TaskData, recipe: Recipe, device: torch.device) -> dict[str, Feed]:
    """What training reads: test is not among it.

    Raises:
        RecipeInvalidError: crops are wanted, and the images were read without a margin.
    """
    feeds = {"train": Feed(data.train, device, recipe.augment, recipe.seed)}
    return feeds if data.val is None else {**feeds, "val": Feed(data.val, device)}


def blank_head(backbone: Backbone, data: TaskData, device: torch.device) -> nn.Linear:
    """Zero, so that the first step moves towards the data and not away from a random guess."""
    head = nn.Linear(backbone.spec.features, len(data.classes), device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def kept(
    checkpoint: Checkpoint | None,
    told: Mapping[str, Any],
    backbone: Backbone,
    data: TaskData,
    recipe: Recipe,
    ranks: Ranks,
) -> Keeper | None:
    """Who writes the checkpoint of exactly this run."""
    if checkpoint is None:
        return None
    identity = {
        **told,
        "recipe": recipe.model_dump(mode="json", exclude={"recompute"}),
        **grounds(data, backbone, recipe),
        "processes": ranks.world,
    }
    return Keeper(checkpoint, identity)
