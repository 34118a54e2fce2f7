"""Full fine-tuning, the reference: the same loop, and every weight of a copy of the network.

Its result is no adapter: it is a whole model for one task, as `rootstock adapter merge` writes.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor, nn

from adapters_store.backbone import Backbone
from adapters_store.methods.protocol import AdapterModule
from training.behaviours import Behaviour
from training.checkpoint import Checkpoint, discard
from training.data import TaskData
from training.errors import DivergedError
from training.evaluate import BATCH, counted, vectors
from training.loop import apart, blank_head, chance, fed, kept, live, seeded
from training.ranks import ALONE, Ranks
from training.recipe import Recipe
from training.room import within_memory
from training.run import NOBODY, check_sizes
from training.steps import Learner, run
from training.trunk import Trunk, default_device
from training.watch import Epoch, Watch

FULL = "full"  # in place of a method's name


@dataclass(frozen=True, slots=True, kw_only=True)
class FullyFitted:
    """A trained copy of the network, in eval mode, and its head; both on the CPU."""

    net: nn.Module
    head: nn.Linear
    log: tuple[Epoch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A whole model for one task: what an adapter is compared with."""

    data: bytes  # safetensors of the state dict, loaded strictly by `timm.create_model`
    metrics: Mapping[str, float]  # accuracy per split, by the fp32 model
    parameters: int  # trained numbers, the head excluded
    recipe: Recipe  # as it was used
    log: tuple[Epoch, ...]


def train_full(
    images: TaskData,
    backbone: Backbone,
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    watch: Watch = NOBODY,
    checkpoint: Checkpoint | None = None,
) -> TrainedModel:
    """Fine-tune every weight, measure every split once, and write the model.

    Args:
        images: in the backbone's input size and the recipe's geometry.
        backbone: stays as it is.
        recipe: see `recipe.FULL`; what is about sites (dropout) does nothing.
        device: an accelerator if there is one, unless given.
        watch: is told of every step and epoch.
        checkpoint: where the run is kept meanwhile; the file is gone when all went well.

    Raises:
        DataInvalidError: refused before anything is computed.
        CheckpointInvalidError: what is to be resumed is damaged, or another run's.
        DivergedError, MemoryExhaustedError: refused after.
    """
    where = default_device() if device is None else device
    fitted = fit_full(backbone, images, recipe, device=where, watch=watch, checkpoint=checkpoint)
    made = model_of(fitted, images, backbone, recipe, device=where)
    if checkpoint is not None:
        discard(checkpoint)
    return made


def model_of(
    fitted: FullyFitted,
    images: TaskData,
    backbone: Backbone,
    recipe: Recipe,
    *,
    device: torch.device | None = None,
) -> TrainedModel:
    """The second half of `train_full`: every split is measured, test among them, once.

    Raises:
        DivergedError: a weight is NaN or infinite.
        MemoryExhaustedError
    """
    where = default_device() if device is None else device
    state = full_state(fitted, backbone)
    if not all(bool(t.isfinite().all()) for t in state.values()):
        raise DivergedError(FULL, recipe.epochs)
    return TrainedModel(
        data=save(state),
        metrics=accuracies(fitted, backbone, images, recipe, where),
        parameters=sum(p.numel() for p in fitted.net.parameters()),
        recipe=recipe,
        log=fitted.log,
    )


def fit_full(
    backbone: Backbone,
    data: TaskData,
    recipe: Recipe,
    *,
    device: torch.device,
    watch: Watch = NOBODY,
    checkpoint: Checkpoint | None = None,
    ranks: Ranks = ALONE,
) -> FullyFitted:
    """Train a copy of the network and a head; the last epoch is kept. Test images are not read.

    Raises:
        As `train_full`.
    """
    check_sizes(FULL, data, backbone.spec)
    with within_memory(device, recipe.batch), seeded(recipe.seed, device):
        net = copy.deepcopy(backbone.net).to(device).requires_grad_(requires_grad=True)
        trunk = Trunk(
            Backbone(net, backbone.spec),
            AdapterModule({}),
            recipe.preprocess(backbone.spec),
            drop_path=recipe.drop_path,
            precision=recipe.precision,
            recompute=recipe.recompute,
        )
        feeds = fed(data, recipe, device)
        learner = Learner(
            method=FULL,
            body=net,
            head=blank_head(backbone, data, device),
            trunk=trunk,
            read=live(trunk, feeds),
            drawn=chance(trunk, feeds),
            feeds=feeds,
            behaviour=Behaviour(),
        )
        keeper = kept(checkpoint, {"method": FULL}, backbone, data, recipe, ranks)
        apart(recipe.seed, ranks)
        log = run(learner, recipe, watch, ranks, keeper)
    net.requires_grad_(requires_grad=False)
    return FullyFitted(net=net.cpu(), head=learner.head.cpu(), log=log)


def full_state(fitted: FullyFitted, backbone: Backbone) -> dict[str, Tensor]:
    """The state dict of a timm model with as many classes as the head; of its own storage."""
    state = {k: v.detach().contiguous().clone() for k, v in fitted.net.state_dict().items()}
    for classifier in backbone.spec.classifiers:
        state[f"{classifier}.weight"] = fitted.head.weight.detach().clone()
        state[f"{classifier}.bias"] = fitted.head.bias.detach().clone()
    return state


def accuracies(
    fitted: FullyFitted,
    backbone: Backbone,
    data: TaskData,
    recipe: Recipe,
    device: torch.device,
) -> dict[str, float]:
    """The share of every split that the fp32 model answers rightly.

    Raises:
        MemoryExhaustedError
    """
    weight, bias = (t.detach().numpy() for t in (fitted.head.weight, fitted.head.bias))
    found = {}
    with within_memory(device, BATCH):
        net = fitted.net.to(device)
        for name, split in sorted(data.splits.items()):
            rows = vectors(net, recipe.preprocess(backbone.spec), split.images, device, "fp32")
            answers = rows @ weight.T + bias
            found[name] = counted(answers, split.labels, data.classes).accuracy
        fitted.net.cpu()
    return found
