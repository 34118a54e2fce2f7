"""What a step computes and what it does not: frozen weights, blocks made again, one cast."""

import numpy as np
import pytest
import torch

from adapters_store.backbone import weights_digest
from adapters_store.methods.table import METHODS, fits, parse_options
from training.run import train_task
from training.trunk import Trunk


def trunk_of(backbone, method, precision="fp32", **more):
    """A trunk in training mode, whose sites are moved away from identity."""
    options = parse_options(method, {})
    torch.manual_seed(0)
    module = METHODS[method].module(options, backbone.spec, 0.0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    preprocess = backbone.spec.preprocess()
    trunk = Trunk(backbone, module, preprocess, drop_path=0.0, precision=precision, **more)
    trunk.train(on=True)
    return module, trunk


def pictures(backbone, count=2):
    """Noise in the backbone's size."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 3, *backbone.spec.input_size), np.uint8)


def leaves(tensor):
    """Every tensor that a backward pass from here would give a gradient."""
    found, seen, waiting = [], set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


@pytest.mark.parametrize("method", [name for name in METHODS if name != "linear"])
def test_no_gradient_is_computed_for_a_frozen_weight(tiny, method):
    """The graph ends in the sites' parameters, in all of them, and nowhere else."""
    module, trunk = trunk_of(tiny, method)

    found = leaves(trunk.features(pictures(tiny)).sum())

    assert {id(leaf) for leaf in found} == {id(p) for p in module.parameters()}


def test_nothing_below_the_first_adapted_target_is_in_the_graph(tiny):
    """Sites in the last block alone: the first block's outputs have no history."""
    options = parse_options("lora", {"variant": "each", "ranks": {"blocks.1.mlp.fc1": 2}})
    module = METHODS["lora"].module(options, tiny.spec, 0.0)
    trunk = Trunk(tiny, module, tiny.spec.preprocess(), drop_path=0.0, precision="fp32")
    needs = {}
    hooks = [
        tiny.net.get_submodule(path).register_forward_hook(
            lambda _m, _i, output, path=path: needs.update({path: output.requires_grad})
        )
        for path in ("blocks.1.mlp.fc1",)
    ]
    history = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (history.append(t.shape), t)[1], lambda t: t
    ):
        features = trunk.features(pictures(tiny))
    for hook in hooks:
        hook.remove()

    below = [p for path, p in tiny.net.named_parameters() if path.startswith("blocks.0")]
    assert features.requires_grad
    assert needs == {"blocks.1.mlp.fc1": False}  # its own input comes without history
    assert below
    assert not {id(leaf) for leaf in leaves(features.sum())} & {id(p) for p in below}
    # A block keeps some ten activations for its way back; of the first, none is kept.
    whole = trunk_of(tiny, "ssf")[1]
    more = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (more.append(t.shape), t)[1], lambda t: t
    ):
        whole.features(pictures(tiny))
    assert len(history) < len(more) / 2


@pytest.mark.parametrize("method", ["alore", "lora", "karst", "ssf"])
def test_weights_that_are_cast_once_give_autocasts_bits(tiny, method):
    """Forwards and backwards, as if autocast had made them in this step."""
    module, trunk = trunk_of(tiny, method, precision="bf16")
    _, anew = trunk_of(tiny, method)  # in fp32 nothing was cast
    again = METHODS[method].module(parse_options(method, {}), tiny.spec, 0.0)
    again.load_state_dict(module.state_dict())
    plainly = Trunk(tiny, again, tiny.spec.preprocess(), drop_path=0.0, precision="fp32")
    plainly._low = True  # autocast alone

    ours, theirs = trunk.features(pictures(tiny)), plainly.features(pictures(tiny))
    ours.square().sum().backward()
    theirs.square().sum().backward()

    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, anew.features(pictures(tiny)))
    for mine, other in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)


def test_casting_leaves_the_pristine_network_alone(tiny):
    """Sites sit on its own modules: those are copied before their weights are cast."""
    before = weights_digest(tiny.net)

    trunk_of(tiny, "lora", precision="bf16")

    assert weights_digest(tiny.net) == before
    assert {p.dtype for p in tiny.net.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["vit", "swin", "convnext", "mixer"])
def test_blocks_that_are_computed_again_give_the_same_bits(tinies, family):
    """On every family, and with less kept in between."""
    backbone = tinies[family]
    assert fits("alore", parse_options("alore", {}), backbone.spec)
    kept = []
    found = []
    for recompute in (False, True):
        module, trunk = trunk_of(backbone, "alore", recompute=recompute)
        shapes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, shapes=shapes: (shapes.append(t.numel()), t)[1], lambda t: t
        ):
            features = trunk.features(pictures(backbone))
        features.square().sum().backward()
        kept.append(sum(shapes))
        found.append([features, *(p.grad for p in module.parameters())])

    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    assert kept[1] < kept[0] / 2


def test_recomputing_changes_no_byte_of_an_artifact(tiny, patterns, brief):
    """Dropout and stochastic depth draw the same the second time, and the manifest is silent."""
    slim = brief.model_copy(update={"recompute": True})

    one, two = (train_task(patterns, tiny, "name", "alore", {}, r) for r in (brief, slim))

    assert one.data == two.data
