"""The training loop itself: steps, epochs, validation. Knows no method, no network and no file.

Nothing in a step waits for the device: losses and hits are summed where they arise, and read once
an epoch.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.behaviours import Behaviour
from training.checkpoint import Keeper
from training.errors import DivergedError
from training.feed import Feed
from training.ranks import Ranks
from training.recipe import Recipe
from training.standing import Standing
from training.trunk import Trunk
from training.watch import Epoch, Watch

Features = Callable[[str, Tensor], Tensor]  # (split, rows [B]) → float32 [B, features]
Drawn = Callable[[Tensor, int], Tensor]  # (rows [B] of train, epoch from 1) → the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """What the loop turns."""

    method: str  # for those who are told that it failed
    body: nn.Module  # trained in front of the head: a method's sites, or a whole network
    head: nn.Linear  # features → classes, fp32, on the device
    trunk: Trunk  # what runs the body
    read: Features  # of images as they are
    drawn: Drawn  # of training images as chance has them in an epoch
    feeds: Mapping[str, Feed]  # "train", and "val" where there is one
    behaviour: Behaviour


def run(
    learner: Learner,
    recipe: Recipe,
    watch: Watch,
    ranks: Ranks,
    keeper: Keeper | None,
) -> tuple[Epoch, ...]:
    """Train for the recipe's epochs, from the start or from what the keeper has.

    Raises:
        DivergedError: the loss is no longer a number.
        CheckpointInvalidError: what was kept is not of this run, or not every process has it.
    """
    parts = {"body": learner.body, "head": learner.head}
    now = Standing(parts, recipe.lr, recipe.weight_decay, recipe.seed)
    images = len(learner.feeds["train"])
    an_epoch = -(-images // recipe.batch)
    if keeper is not None and (saved := keeper.saved()) is not None:
        now.restore(saved, ranks)
        watch.on_resume(now.step, recipe.epochs * an_epoch)
    ranks.check_together(now.step, now.device)
    while len(now.log) < recipe.epochs:
        begun = time.perf_counter()
        learner.trunk.train(on=True)
        batches = torch.split(now.order(images), recipe.batch)
        for rows in batches[now.step - len(now.log) * an_epoch :]:
            _step(learner, now, rows, recipe, recipe.epochs * an_epoch, ranks)
            if keeper is not None and ranks.world == 1 and keeper.due:
                keeper.save(now.saved(time.perf_counter() - begun, ranks))
            watch.on_step(now.step, recipe.epochs * an_epoch)
        end_epoch(learner, now, recipe, recipe.epochs * an_epoch, begun, ranks)
        watch.on_epoch(now.log[-1])
        # Several processes have several clocks: they keep their state together, epoch by epoch.
        if keeper is not None and (ranks.world > 1 or keeper.due or len(now.log) == recipe.epochs):
            state = now.saved(0.0, ranks)
            if ranks.first:
                keeper.save(state)
    return tuple(now.log)


def _step(
    learner: Learner, now: Standing, rows: Tensor, recipe: Recipe, steps: int, ranks: Ranks
) -> None:
    """One batch [B] of training images, of which this process takes its part."""
    for group in now.optimizer.param_groups:
        group["lr"] = recipe.rate(now.step, steps)
    now.optimizer.zero_grad()
    mine = ranks.part(rows)
    if len(mine):  # the first process always has some, so that penalties count once
        scores = learner.head(learner.drawn(mine, len(now.log) + 1))
        wanted = learner.feeds["train"].labels(mine)
        loss = F.cross_entropy(scores, wanted)
        hits = (scores.detach().argmax(1) == wanted).sum()
        now.sums += torch.stack([loss.detach().double() * len(mine), hits.double()])
        if len(mine) < len(rows):
            loss = loss * (len(mine) / len(rows))
        penalty = learner.behaviour.penalty() if ranks.first else None
        (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
    ranks.add_gradients(now.trained.values())
    now.optimizer.step()
    now.step += 1


def end_epoch(
    learner: Learner, now: Standing, recipe: Recipe, steps: int, begun: float, ranks: Ranks
) -> None:
    """The method's behaviour, validation, a row of the log; and a clean slate.

    Raises:
        DivergedError: the loss is no longer a number.
    """
    number, feed = len(now.log) + 1, learner.feeds["train"]
    ranks.add(now.sums)
    loss_sum, hits = now.sums.tolist()
    if not np.isfinite(loss_sum):
        raise DivergedError(learner.method, number)
    learner.trunk.train(on=False)

    def losses() -> Iterator[Tensor]:
        for rows in torch.split(torch.arange(len(feed)), recipe.batch):
            yield F.cross_entropy(learner.head(learner.read("train", rows)), feed.labels(rows))

    learner.behaviour.after_epoch(number, losses)
    ranks.align([*(p.detach() for p in now.trained.values()), *now.kept.values()])
    row = Epoch(
        epoch=number,
        epochs=recipe.epochs,
        lr=recipe.rate(now.step - 1, steps),
        loss=loss_sum / len(feed),
        train_accuracy=hits / len(feed),
        val_accuracy=_accuracy(learner, recipe.batch, ranks),
        seconds=now.spent + time.perf_counter() - begun,
    )
    now.log.append(row)
    now.sums.zero_()
    now.spent = 0.0
    now.before = now.shuffle.get_state()


def _accuracy(learner: Learner, batch: int, ranks: Ranks) -> float | None:
    """The share of val that is answered rightly."""
    feed = learner.feeds.get("val")
    if feed is None:
        return None
    hits = torch.zeros(1, dtype=torch.float64, device=learner.head.weight.device)
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(feed)), batch):
            mine = ranks.part(rows)
            if len(mine):
                guesses = learner.head(learner.read("val", mine)).argmax(1)
                hits += (guesses == feed.labels(mine)).sum()
    ranks.add(hits)
    return float(hits) / len(feed)
