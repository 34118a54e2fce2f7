"""The training loop: a method and images in, trained sites and a head out. Knows no artifact.

Seeded: on one CPU with one thread count, the same inputs give the same bits. The caller's random
numbers are not touched, and neither is the backbone.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters_store.backbone import Backbone
from adapters_store.methods.protocol import AdapterModule, MethodOptions
from adapters_store.methods.table import method_named
from training.behaviours import behaviour_of
from training.data import Split, TaskData
from training.errors import DivergedError
from training.recipe import Recipe
from training.trunk import Trunk, placed

Features = Callable[[str, Tensor], Tensor]  # (split, rows [B]) → float32 [B, features]


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One line of the training log."""

    epoch: int  # from 1
    epochs: int
    lr: float  # of its last step
    loss: float  # mean over its images, as they were trained on
    train_accuracy: float  # likewise: with dropout, and before each step
    val_accuracy: float | None  # after the epoch; None where there is no val
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told how far training is. The default tells nobody."""

    on_epoch: Callable[[Epoch], None] = lambda _: None
    on_step: Callable[[int, int], None] = lambda _done, _of: None


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
) -> Fitted:
    """Train the method's sites and a head on the frozen backbone; the last epoch is kept.

    Raises:
        DivergedError: the loss is no longer a number.
    """
    frozen = placed(backbone, device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        module = method_named(method).module(options, backbone.spec, recipe.dropout).to(device)
        trunk = Trunk(
            frozen,
            module,
            backbone.spec.preprocess(recipe.geometry),
            drop_path=recipe.drop_path,
            precision=recipe.precision,
        )
        read = live(trunk, data) if module.paths else remembered(trunk, data, recipe.batch)
        # Zero, so that the first step moves towards the data and not away from a random guess.
        head = nn.Linear(backbone.spec.features, len(data.classes), device=device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        log = _run(method, module, trunk, head, read, data, recipe, watch)
    return Fitted(module=module.cpu().eval(), head=head.cpu(), log=log)


def live(trunk: Trunk, data: TaskData) -> Features:
    """Features computed anew for every batch, with gradients to the sites."""
    return lambda split, rows: trunk.features(data.splits[split].images[rows.numpy()])


def remembered(trunk: Trunk, data: TaskData, batch: int) -> Features:
    """Features computed once: exact where nothing in front of the head is trained."""
    trunk.train(on=False)
    table: dict[str, Tensor] = {}
    with torch.no_grad():
        for name in (n for n in ("train", "val") if n in data.splits):
            images = data.splits[name].images
            parts = [images[at : at + batch] for at in range(0, len(images), batch)]
            table[name] = torch.cat([trunk.features(part) for part in parts])
    return lambda split, rows: table[split][rows.to(table[split].device)]


def _run(
    method: str,
    module: AdapterModule,
    trunk: Trunk,
    head: nn.Linear,
    read: Features,
    data: TaskData,
    recipe: Recipe,
    watch: Watch,
) -> tuple[Epoch, ...]:
    trained = [*module.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay)
    shuffle = torch.Generator().manual_seed(recipe.seed)
    labels = torch.from_numpy(data.train.labels)
    steps = recipe.epochs * -(-len(labels) // recipe.batch)
    behaviour = behaviour_of(method, module, recipe)

    def losses() -> Iterator[Tensor]:
        for rows in torch.split(torch.arange(len(labels)), recipe.batch):
            scores = head(read("train", rows))
            yield F.cross_entropy(scores, labels[rows].to(scores.device))

    step, log = 0, []
    for number in range(1, recipe.epochs + 1):
        begun = time.perf_counter()
        trunk.train(on=True)
        loss_sum = hits = 0.0
        for rows in torch.split(torch.randperm(len(labels), generator=shuffle), recipe.batch):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step, steps)
            scores = head(read("train", rows))
            wanted = labels[rows].to(scores.device)
            loss = F.cross_entropy(scores, wanted)
            penalty = behaviour.penalty()
            optimizer.zero_grad()
            (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            loss_sum += float(loss.detach()) * len(rows)
            hits += float((scores.argmax(1) == wanted).sum())
            watch.on_step(step, steps)
        if not np.isfinite(loss_sum):
            raise DivergedError(method, number)
        trunk.train(on=False)
        behaviour.after_epoch(number, losses)
        row = Epoch(
            epoch=number,
            epochs=recipe.epochs,
            lr=recipe.rate(step - 1, steps),
            loss=loss_sum / len(labels),
            train_accuracy=hits / len(labels),
            val_accuracy=_accuracy(read, head, data.val, recipe.batch),
            seconds=time.perf_counter() - begun,
        )
        watch.on_epoch(row)
        log.append(row)
    return tuple(log)


def _accuracy(read: Features, head: nn.Linear, val: Split | None, batch: int) -> float | None:
    if val is None:
        return None
    rows = torch.split(torch.arange(len(val.labels)), batch)
    with torch.no_grad():
        guesses = torch.cat([head(read("val", part)).argmax(1) for part in rows])
    return float((guesses.cpu() == torch.from_numpy(val.labels)).float().mean())
