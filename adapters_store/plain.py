"""The plain path: one adapter, its normal form unmerged, no batching tricks. Slow and obvious.

Law check, effect check, `adapter verify` and the wrong-answer detector all call it, so it is the
reference that every faster path is held against. Knows no store and no server.
"""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters_store import normal_form
from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone, features, twin
from adapters_store.manifest import Preprocess
from adapters_store.methods.protocol import AdapterModule, Site
from adapters_store.methods.table import lower
from adapters_store.normal_form import LinearForm, NormalForm
from adapters_store.pixels import normalise


class FormedLinear(nn.Module):
    """A frozen target with a form in front of, beside and behind it."""

    def __init__(self, linear: nn.Linear, form: LinearForm) -> None:
        super().__init__()
        self.linear, self.form = linear, form

    def forward(self, x: Tensor) -> Tensor:
        """The adapted target on tokens [..., in]."""
        return normal_form.apply(self.form, x, self.linear.weight, self.linear.bias)


class Shifted(nn.Module):
    """A frozen LayerNorm or convolution with affine terms behind it."""

    def __init__(self, frozen: nn.Module, form: LinearForm) -> None:
        super().__init__()
        self.frozen, self.form = frozen, form

    def forward(self, x: Tensor) -> Tensor:
        """γ ⊙ frozen(x) + β, channel by channel."""
        y: Tensor = self.frozen(x)
        if self.form.gamma is not None:
            y = y * channelwise(self.form.gamma, self.frozen)
        return y if self.form.beta is None else y + channelwise(self.form.beta, self.frozen)


class Sited(nn.Module):
    """A frozen target with a training site on it."""

    def __init__(self, frozen: nn.Module, site: Site) -> None:
        super().__init__()
        self.frozen, self.site = frozen, site

    def forward(self, x: Tensor) -> Tensor:
        """The adapted target on tokens [..., in], or whatever the frozen module takes."""
        if isinstance(self.frozen, nn.Linear) and torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # once, for all that multiply it
        y: Tensor = self.site(x, self.frozen)
        return y


def channelwise(values: Tensor, module: nn.Module) -> Tensor:
    """Terms [..., channels] in the shape of the module's output: channels come first in images."""
    return values[..., None, None] if isinstance(module, nn.Conv2d) else values


def formed(net: nn.Module, form: NormalForm) -> nn.Module:
    """A twin of the network whose targets apply the form, unmerged."""
    return _replaced(net, {p: _formed(net.get_submodule(p), f) for p, f in form.items()})


def sited(net: nn.Module, module: AdapterModule) -> nn.Module:
    """A twin of the network whose targets run the sites of a module in training."""
    sites = module.by_path()
    return _replaced(net, {p: Sited(net.get_submodule(p), s) for p, s in sites.items()})


def merged(net: nn.Module, form: NormalForm) -> nn.Module:
    """A twin of the network whose targets hold W' and b', computed in the weights' own dtype."""
    return _replaced(net, {p: _merged(net.get_submodule(p), f) for p, f in form.items()})


def merged_state(backbone: Backbone, adapter: Adapter) -> dict[str, Tensor]:
    """The state dict of a plain timm model for this one task, classifier included.

    `timm.create_model(name, **kwargs, num_classes=len(labels))` loads it strictly.
    """
    net = merged(backbone.net, lower(adapter, backbone.spec))
    state = {k: v.detach().contiguous().clone() for k, v in net.state_dict().items()}
    for classifier in backbone.spec.classifiers:
        state[f"{classifier}.weight"] = torch.from_numpy(np.array(adapter.head_weight))
        state[f"{classifier}.bias"] = torch.from_numpy(np.array(adapter.head_bias))
    return state


def logits(
    backbone: Backbone, adapter: Adapter, pictures: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """What the adapter answers: uint8 [B, 3, H, W] → float32 [B, labels], one image at a time."""
    dtype = next(backbone.net.parameters()).dtype
    net = formed(backbone.net, {p: f.to(dtype) for p, f in lower(adapter, backbone.spec).items()})
    return answers(net, adapter, pictures)


def answers(net: nn.Module, adapter: Adapter, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The head of `adapter` on the features of any network, one image at a time."""
    rows = vectors(net, adapter.manifest.preprocess, pictures)
    scores: NDArray[np.float32] = rows @ adapter.head_weight.T + adapter.head_bias
    return scores


def vectors(
    net: nn.Module, preprocess: Preprocess, pictures: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Features of pictures, one at a time: uint8 [B, 3, H, W] → float32 [B, features]."""
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    dtype = next(net.parameters()).dtype
    rows = []
    with torch.inference_mode():
        for picture in pictures:
            image = normalise(torch.from_numpy(picture[None]), mean, std).to(dtype)
            rows.append(features(net, image).to(torch.float32))
    return torch.cat(rows).numpy()


def _formed(module: nn.Module, form: LinearForm) -> nn.Module:
    return FormedLinear(module, form) if isinstance(module, nn.Linear) else Shifted(module, form)


def parameters(module: nn.Module, form: LinearForm) -> tuple[Tensor, Tensor | None]:
    """Weight and bias that make the module do what it does with the form, in its own dtype.

    What the form leaves as it is may share memory with the module.
    """
    assert isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d)
    weight, bias = module.weight.detach(), module.bias
    bias = None if bias is None else bias.detach()
    if isinstance(module, nn.Linear):
        return normal_form.merge(form, weight, bias)
    # Affine terms scale rows: of a matrix whose rows are the output's channels.
    rows, shift = normal_form.merge(form, weight.reshape(len(weight), -1), bias)
    return rows.reshape(weight.shape), shift


def _merged(module: nn.Module, form: LinearForm) -> nn.Module:
    """The module with its weight and bias replaced; strict loading needs the same names."""
    assert isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d)
    weight, bias = parameters(module, form)
    altered = _bare(module)
    altered.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        altered.bias = nn.Parameter(bias, requires_grad=False)
    return altered


def _bare(module: nn.Linear | nn.LayerNorm | nn.Conv2d) -> nn.Linear | nn.LayerNorm | nn.Conv2d:
    """A copy of the module that shares its parameters."""
    shared = {id(p): p for p in module.parameters()}
    return copy.deepcopy(module, shared)


def _replaced(net: nn.Module, changed: dict[str, nn.Module]) -> nn.Module:
    altered = twin(net)
    for path, module in changed.items():
        altered.set_submodule(path, module)
    return altered
