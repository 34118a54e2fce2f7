"""Who takes turns in `bench train`: the trainer on a method, on every weight, and PEFT.

Each is a function that makes some steps and returns the seconds of all but the first. Knows no
ratio and no memory.
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from adapters_store.backbone import Backbone, features
from adapters_store.methods.protocol import AdapterModule
from adapters_store.methods.table import method_named, parse_options
from adapters_store.pixels import normalise
from rootstock.bench.adapters import Choice
from rootstock.bench.rivals import load_peft
from rootstock.bench.stopwatch import Stopwatch
from training.behaviours import Behaviour, behaviour_of
from training.data import Split, TaskData
from training.loop import blank_head, chance, fed, live, seeded
from training.ranks import ALONE
from training.recipe import FULL, PUBLISHED, Precision, Recipe
from training.steps import Learner, run
from training.trunk import Trunk, placed

Turn = Callable[[], float]  # seconds of the timed steps

CLASSES: Final = 10
SHAPES: Final = ("qkv", "each")  # of LoRA, that PEFT has too


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What every arm does in a turn."""

    backbone: Backbone
    device: torch.device
    precision: Precision
    batch: int
    steps: int  # timed ones; one more is made before them
    in_place: bool = False  # full fine-tuning may spoil the backbone, and needs no copy of it

    def recipe(self, method: str) -> Recipe:
        """As published, but for stochastic depth, which is the same work in every arm."""
        base = FULL if method == "full" else PUBLISHED[method]
        settings = {"epochs": 1, "batch": self.batch, "precision": self.precision, "drop_path": 0.0}
        return base.model_copy(update=settings)

    def images(self) -> TaskData:
        """Noise to learn from, and nothing to validate on."""
        rng, count = np.random.default_rng(0), self.batch * (self.steps + 1)
        shape = (count, 3, *self.backbone.spec.input_size)
        split = Split(
            images=rng.integers(0, 256, shape, np.uint8), labels=np.arange(count) % CLASSES
        )
        names = tuple(f"class {n}" for n in range(CLASSES))
        return TaskData(classes=names, splits={"train": split}, digest="")


def turn_of(system: str, choice: Choice | None, course: Course) -> Turn:
    """The arm of that name: full, rootstock, peft or peft-plain.

    Raises:
        RivalMissingError: PEFT is not installed.
    """
    return ARMS[system](choice or Choice.parse("linear"), course)


def _full(_: Choice, course: Course) -> Turn:
    """Every weight, by the loop that trains adapters."""
    backbone, recipe = course.backbone, course.recipe("full")
    net = backbone.net if course.in_place else copy.deepcopy(backbone.net)
    net = net.to(course.device).requires_grad_(requires_grad=True)
    trunk = _trunk(Backbone(net, backbone.spec), AdapterModule({}), recipe)
    return _looped(trunk, net, Behaviour(), recipe, course)


def _rootstock(choice: Choice, course: Course) -> Turn:
    """A method, by its sites."""
    recipe = course.recipe(choice.method)
    options = parse_options(choice.method, choice.options)
    with seeded(0, course.device):
        module = method_named(choice.method).module(options, course.backbone.spec, recipe.dropout)
    trunk = _trunk(placed(course.backbone, course.device), module.to(course.device), recipe)
    return _looped(trunk, module, behaviour_of(choice.method, module, recipe), recipe, course)


def _peft(choice: Choice, course: Course) -> Turn:
    """PEFT's layers in the loop that trains ours."""
    recipe, net = course.recipe("lora"), _with_peft(choice, course)
    trunk = _trunk(Backbone(net, course.backbone.spec), AdapterModule({}), recipe)
    return _looped(trunk, net, Behaviour(), recipe, course)


def _peft_plain(choice: Choice, course: Course) -> Turn:
    """PEFT in the loop that its users write: autocast around timm as it comes, and AdamW."""
    recipe, net, data = course.recipe("lora"), _with_peft(choice, course), course.images()
    spec, device = course.backbone.spec, course.device
    mean, std = torch.tensor(spec.mean, device=device), torch.tensor(spec.std, device=device)
    head = blank_head(course.backbone, data, device)
    weights = [p for p in (*net.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay)

    def turn() -> float:
        watch = Stopwatch(device)
        rows = torch.split(torch.randperm(len(data.train.labels)), course.batch)
        for done, some in enumerate(rows, 1):
            pixels = torch.from_numpy(data.train.images[some.numpy()]).to(device)
            wanted = torch.from_numpy(data.train.labels)[some].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=course.precision == "bf16"):
                scores = head(features(net, normalise(pixels, mean, std)))
                loss = F.cross_entropy(scores, wanted)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            watch.step(done, len(rows))
        return watch.seconds

    return turn


ARMS: Final[Mapping[str, Callable[[Choice, Course], Turn]]] = {
    "full": _full,
    "rootstock": _rootstock,
    "peft": _peft,
    "peft-plain": _peft_plain,
}


def _with_peft(choice: Choice, course: Course) -> nn.Module:
    """A copy of the network with PEFT's LoRA where ours is, in training mode."""
    peft = load_peft()
    options = parse_options("lora", choice.options).model_dump()
    spec = course.backbone.spec
    targets = method_named("lora").targets(parse_options("lora", choice.options), spec)  # type: ignore[attr-defined]
    net = copy.deepcopy(course.backbone.net).to(course.device)
    config = peft.LoraConfig(
        r=options["rank"],
        lora_alpha=options["scale"] * options["rank"],
        lora_dropout=course.recipe("lora").dropout,
        target_modules=[target.path for target in targets],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = peft.get_peft_model(net, config)
    found: nn.Module = model.base_model.model.train()
    return found


def _trunk(backbone: Backbone, module: AdapterModule, recipe: Recipe) -> Trunk:
    return Trunk(
        backbone,
        module,
        recipe.preprocess(backbone.spec),
        drop_path=recipe.drop_path,
        precision=recipe.precision,
    )


def _looped(
    trunk: Trunk, body: nn.Module, behaviour: Behaviour, recipe: Recipe, course: Course
) -> Turn:
    data = course.images()
    feeds = fed(data, recipe, course.device)
    learner = Learner(
        method="bench",
        body=body,
        head=blank_head(course.backbone, data, course.device),
        trunk=trunk,
        read=live(trunk, feeds),
        drawn=chance(trunk, feeds),
        feeds=feeds,
        behaviour=behaviour,
    )

    def turn() -> float:
        watch = Stopwatch(course.device)
        run(learner, recipe, watch.watch, ALONE, None)
        return watch.seconds

    return turn


def warmed(course: Course) -> Course:
    """The least of it: to have everything loaded that is loaded once."""
    return replace(course, batch=1, steps=1)
