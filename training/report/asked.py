"""How the file of a run answers one split, for its report. Knows no picture and no folder."""

import copy

import torch
from safetensors.torch import load
from torch import Tensor

from adapters_store.backbone import Backbone
from training.data import TaskData
from training.evaluate import logits, vectors
from training.full import TrainedModel
from training.report.measures import Answers, answered
from training.run import TrainedTask
from training.trunk import default_device


def asked(
    made: TrainedTask | TrainedModel,
    images: TaskData,
    backbone: Backbone,
    device: torch.device | None = None,
) -> Answers:
    """Its answers on test; without test on val, and without that on train."""
    where = default_device() if device is None else device
    name = next(name for name in ("test", "val", "train") if name in images.splits)
    split = images.splits[name]
    if isinstance(made, TrainedTask):
        found = logits(backbone, made.adapter, split.images, device=where)
        return answered(name, split.images, split.labels, found)
    state = load(made.data)
    weight, bias = _head(state, backbone)
    net = copy.deepcopy(backbone.net)
    net.load_state_dict({key: state[key] for key in net.state_dict()})
    rows = vectors(
        net.to(where), made.recipe.preprocess(backbone.spec), split.images, where, "fp32"
    )
    return answered(name, split.images, split.labels, rows @ weight.numpy().T + bias.numpy())


def _head(state: dict[str, Tensor], backbone: Backbone) -> tuple[Tensor, Tensor]:
    classifier = backbone.spec.classifiers[0]
    return state[f"{classifier}.weight"], state[f"{classifier}.bias"]
