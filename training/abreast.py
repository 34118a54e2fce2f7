"""The loop over several tasks at once: images in, trained sites and heads out. Knows no artifact.

A step takes the next batch of every task, runs the network once forwards and once backwards over
all of them, and lets each task's own optimiser step. A task goes through its epochs at its own
pace: with fewer images it is done earlier, and its rows leave the batch.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters_store.backbone import Backbone
from adapters_store.methods.protocol import AdapterModule, MethodOptions
from adapters_store.methods.table import method_named
from training.behaviours import behaviour_of
from training.data import TaskData
from training.errors import DivergedError
from training.feed import Feed
from training.loop import Fitted, blank_head, fed, seeded
from training.mixture import Mixture
from training.ranks import ALONE
from training.recipe import Recipe
from training.room import within_memory
from training.standing import Standing
from training.steps import Learner, end_epoch
from training.trunk import Trunk, placed
from training.watch import Watch


class Member:
    """One task on its way: what the loop turns, where it stands, and what it draws next."""

    def __init__(
        self, task: str, module: AdapterModule, learner: Learner, recipe: Recipe, watch: Watch
    ) -> None:
        """Begin before the first step."""
        self.task, self.module, self.learner = task, module, learner
        self._recipe, self._watch = recipe, watch
        parts = {"body": module, "head": learner.head}
        self._now = Standing(parts, recipe.lr, recipe.weight_decay, recipe.seed)
        self._images = len(learner.feeds["train"])
        self._steps = recipe.epochs * -(-self._images // recipe.batch)
        self._batches: list[Tensor] = []  # of this epoch, yet to come
        self._begun = 0.0

    @property
    def done(self) -> bool:
        """Whether its last epoch is over."""
        return len(self._now.log) == self._recipe.epochs

    def fitted(self) -> Fitted:
        """What was trained, once it is done; on the CPU from now on."""
        head: nn.Linear = self.learner.head.cpu()
        return Fitted(module=self.module.cpu().eval(), head=head, log=tuple(self._now.log))

    def draw(self) -> Tensor:
        """Rows of the next batch, int64 [at most recipe.batch]; a new epoch shuffles anew."""
        if not self._batches:
            self._batches = list(torch.split(self._now.order(self._images), self._recipe.batch))
            self._begun = time.perf_counter()
        return self._batches.pop(0)

    def images(self, rows: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] of rows [B], as chance has them in this epoch."""
        return self.learner.feeds["train"].drawn(rows, len(self._now.log) + 1)

    def loss(self, rows: Tensor, vectors: Tensor) -> Tensor:
        """Of a batch [B] from its features [B, features]; a scalar, the method's penalty in it."""
        scores = self.learner.head(vectors)
        wanted = self.learner.feeds["train"].labels(rows)
        loss = F.cross_entropy(scores, wanted)
        hits = (scores.detach().argmax(1) == wanted).sum()
        self._now.sums += torch.stack([loss.detach().double() * len(rows), hits.double()])
        penalty = self.learner.behaviour.penalty()
        self._now.optimizer.zero_grad()
        return loss if penalty is None else loss + penalty

    def step(self) -> None:
        """Follow the gradients of that loss, at its own learning rate."""
        for group in self._now.optimizer.param_groups:
            group["lr"] = self._recipe.rate(self._now.step, self._steps)
        self._now.optimizer.step()
        self._now.step += 1
        self._watch.on_step(self._now.step, self._steps)

    def end_epoch(self) -> bool:
        """What comes after an epoch, if this was its last step.

        Raises:
            DivergedError: the loss is no longer a number.
        """
        if self._batches:
            return False
        try:
            end_epoch(self.learner, self._now, self._recipe, self._steps, self._begun, ALONE)
        except DivergedError as error:
            raise DivergedError(error.method, error.epoch, self.task) from None
        self._watch.on_epoch(self._now.log[-1])
        return True


def fit_abreast(
    backbone: Backbone,
    method: str,
    options: MethodOptions,
    data: Mapping[str, TaskData],
    recipe: Recipe,
    *,
    device: torch.device,
    watch: Callable[[str], Watch],
) -> dict[str, Fitted]:
    """Train every task's sites and head on one frozen backbone, in mixed batches.

    Each begins with the factors that it would begin with alone, and sees its images in the same
    order. Dropout and stochastic depth draw from one generator, row by row.

    Raises:
        DivergedError: the loss of a task is no longer a number.
        MemoryExhaustedError: a step does not fit.
    """
    room = within_memory(device, recipe.batch * len(data))
    with room, seeded(recipe.seed, device):
        frozen, modules = placed(backbone, device), {}
        for task in data:
            torch.manual_seed(recipe.seed)
            fresh = method_named(method).module(options, backbone.spec, recipe.dropout)
            modules[task] = fresh.to(device)
        torch.manual_seed(recipe.seed)
        mixture = Mixture(list(modules.values()))
        trunk = Trunk(
            frozen,
            mixture,
            recipe.preprocess(backbone.spec),
            drop_path=recipe.drop_path,
            precision=recipe.precision,
            recompute=recipe.recompute,
        )
        members = []
        for seat, (task, images) in enumerate(data.items()):
            feeds = fed(images, recipe, device)
            alone = Alone(trunk, mixture, seat, feeds)
            learner = Learner(
                method=method,
                body=modules[task],
                head=blank_head(backbone, images, device),
                trunk=trunk,
                read=alone.read,
                drawn=alone.drawn,
                feeds=feeds,
                behaviour=behaviour_of(method, modules[task], recipe),
            )
            members.append(Member(task, modules[task], learner, recipe, watch(task)))
        trunk.train(on=True)
        while not all(member.done for member in members):
            _round(trunk, mixture, members)
    return {member.task: member.fitted() for member in members}


def _round(trunk: Trunk, mixture: Mixture, members: Sequence[Member]) -> None:
    """One step of every task that is not done, and what comes after an epoch where one ends."""
    drawn = {member: member.draw() for member in members if not member.done}
    mixture.seats.sizes = tuple(len(drawn.get(member, ())) for member in members)
    images = [member.images(rows) for member, rows in drawn.items()]
    vectors = torch.split(trunk.features(torch.cat(images)), [len(own) for own in images])
    losses = [who.loss(*own) for who, *own in zip(drawn, drawn.values(), vectors, strict=True)]
    # A task's rows depend on its own factors alone, so the gradient of the sum is each one's own.
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    for member in drawn:
        member.step()
    ended = [member.end_epoch() for member in drawn]
    if any(ended):
        trunk.train(on=True)


class Alone:
    """Features of one task's images, nobody else being in the batch."""

    def __init__(
        self, trunk: Trunk, mixture: Mixture, seat: int, feeds: Mapping[str, Feed]
    ) -> None:
        self._trunk, self._seats, self._feeds = trunk, mixture.seats, feeds
        self._seat = seat

    def read(self, split: str, rows: Tensor) -> Tensor:
        """Of images as they are."""
        return self._features(self._feeds[split].images(rows))

    def drawn(self, rows: Tensor, epoch: int) -> Tensor:
        """Of training images as chance has them in an epoch."""
        return self._features(self._feeds["train"].drawn(rows, epoch))

    def _features(self, images: Tensor) -> Tensor:
        sizes = [0] * len(self._seats.sizes)
        sizes[self._seat] = len(images)
        self._seats.sizes = tuple(sizes)
        return self._trunk.features(images)
