"""The plain path: one adapter, its normal form unmerged, no batching tricks. Slow and obvious.

Law check, effect check, `adapter verify` and the wrong-answer detector all call it, so it is the
reference that every faster path is held against. Knows no store and no server.
"""

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


class SitedLinear(nn.Module):
    """A frozen target with a training site on it."""

    def __init__(self, linear: nn.Linear, site: Site) -> None:
        super().__init__()
        self.linear, self.site = linear, site

    def forward(self, x: Tensor) -> Tensor:
        """The adapted target on tokens [..., in]."""
        y: Tensor = self.site(x, self.linear)
        return y


def formed(net: nn.Module, form: NormalForm) -> nn.Module:
    """A twin of the network whose targets apply the form, unmerged."""
    return _replaced(net, {p: FormedLinear(_linear(net, p), f) for p, f in form.items()})


def sited(net: nn.Module, module: AdapterModule) -> nn.Module:
    """A twin of the network whose targets run the sites of a module in training."""
    return _replaced(net, {p: SitedLinear(_linear(net, p), s) for p, s in module.by_path().items()})


def merged(net: nn.Module, form: NormalForm) -> nn.Module:
    """A twin of the network whose targets hold W' and b', computed in the weights' own dtype."""
    changed: dict[str, nn.Module] = {}
    for path, target in form.items():
        linear = _linear(net, path)
        weight, bias = normal_form.merge(target, linear.weight.detach(), linear.bias)
        copy = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        copy.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            copy.bias = nn.Parameter(bias.detach(), requires_grad=False)
        changed[path] = copy
    return _replaced(net, changed)


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


def _linear(net: nn.Module, path: str) -> nn.Linear:
    module = net.get_submodule(path)
    assert isinstance(module, nn.Linear), path
    return module


def _replaced(net: nn.Module, changed: dict[str, nn.Module]) -> nn.Module:
    copy = twin(net)
    for path, module in changed.items():
        copy.set_submodule(path, module)
    return copy
