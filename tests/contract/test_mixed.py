"""One batch of every method at once: each sample is answered as it is alone by the plain path."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters_store import plain
from adapters_store.methods.table import METHODS, parse_options
from serving.engine.engine import Engine

FAMILIES = ("vit", "swin", "convnext", "mixer")
CHANGING = 1e-3  # how much an adapter moves an answer at least, relative to the answer


def offered_on(family):
    return [name for name, method in METHODS.items() if family in method.families]


def lively(adapter, backbone):
    """Noise upon what a fresh adapter holds, so that scales lie around one and not around zero."""
    manifest = adapter.manifest
    options = parse_options(manifest.method, manifest.options)
    fresh = METHODS[manifest.method].module(options, backbone.spec, dropout=0.0).export()
    return replace(
        adapter,
        tensors={
            name: np.asarray(tensor + fresh[name].numpy(), tensor.dtype)
            if name in fresh and tensor.dtype.kind == "f"
            else tensor
            for name, tensor in adapter.tensors.items()
        },
    )


class Crowd:
    """Two adapters of every method of a family, a picture each, and what each says alone."""

    def __init__(self, backbone, family, make_adapter):
        self.backbone, self.engine = backbone, Engine(backbone)
        self.methods = offered_on(family) * 2
        self.adapters = [
            lively(make_adapter(backbone, m, seed=i, labels=3 + i % 4, effect=False), backbone)
            for i, m in enumerate(self.methods)
        ]
        shape = (len(self.adapters), 3, *backbone.spec.input_size)
        self.pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.prepared = [self.engine.prepare(a) for a in self.adapters]
        pairs = zip(self.adapters, self.pictures, strict=True)
        self.alone = [plain.logits(backbone, a, p[None])[0] for a, p in pairs]

    def compare(self, picks, answers, tolerance=1e-4):
        for pick, answer in zip(picks, answers, strict=True):
            wanted = self.alone[pick]
            gap, most = np.abs(answer - wanted).max(), max(1.0, np.abs(wanted).max())
            assert gap <= tolerance * most, (self.methods[pick], gap, most)


@pytest.fixture(scope="module")
def crowds(tinies, make_adapter):
    """The crowd of a family, made once."""
    made = {}

    def of(family):
        if family not in made:
            made[family] = Crowd(tinies[family], family, make_adapter)
        return made[family]

    return of


@pytest.mark.parametrize("family", FAMILIES)
def test_one_sample_of_every_method_in_one_batch_answers_as_alone(crowds, family):
    crowd = crowds(family)
    picks = range(len(crowd.methods) // 2)
    assert [crowd.methods[i] for i in picks] == offered_on(family)

    answers = crowd.engine.run(crowd.pictures[: len(picks)], crowd.prepared[: len(picks)])

    crowd.compare(picks, answers)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_twice_beside_the_bare_network_in_any_order(crowds, family):
    """Segments of several adapters, of one adapter alone, and of none."""
    crowd = crowds(family)
    count = len(crowd.methods)
    picks = np.random.default_rng(1).permutation([*range(count), *range(count // 2)])
    bare = crowd.engine.identity()
    pictures = np.concatenate([crowd.pictures[picks], crowd.pictures[:2]])

    answers = crowd.engine.run(pictures, [*(crowd.prepared[i] for i in picks), bare, bare])

    crowd.compare(picks, answers[:-2])
    plainly = plain.vectors(
        crowd.backbone.net, crowd.backbone.spec.preprocess(), crowd.pictures[:2]
    )
    most = max(1.0, np.abs(plainly).max())
    assert np.abs(np.stack(answers[-2:]) - plainly).max() <= 1e-4 * most


@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_of_these_changes_its_answer(crowds, family):
    """Else the comparisons would compare nothing."""
    crowd = crowds(family)
    bare = plain.vectors(crowd.backbone.net, crowd.backbone.spec.preprocess(), crowd.pictures)

    for name, adapter, features, said in zip(
        crowd.methods, crowd.adapters, bare, crowd.alone, strict=True
    ):
        without = adapter.head_weight @ features + adapter.head_bias
        change = np.linalg.norm(said - without) / np.linalg.norm(without)
        assert change > CHANGING or name == "linear", (name, change)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_batch_of_any_methods_is_answered_alike(crowds, data):
    crowd = crowds("vit")
    picks = data.draw(st.lists(st.integers(0, len(crowd.methods) - 1), min_size=1, max_size=16))

    answers = crowd.engine.run(crowd.pictures[picks], [crowd.prepared[i] for i in picks])

    crowd.compare(picks, answers)


def test_a_batch_of_every_method_agrees_in_bf16_within_rounding(crowds):
    crowd = crowds("vit")
    engine = Engine(crowd.backbone, "bf16")

    answers = engine.run(crowd.pictures, [engine.prepare(a) for a in crowd.adapters])

    for name, answer, wanted in zip(crowd.methods, answers, crowd.alone, strict=True):
        gap = np.linalg.norm(answer - wanted) / np.linalg.norm(wanted)
        assert gap <= 5e-2, (name, gap)


def test_a_batch_changes_neither_the_weights_nor_the_next_batch(crowds):
    """Terms are added in place: to a batch's activations, and to nothing that stays."""
    crowd = crowds("vit")
    net = crowd.backbone.net
    before = {k: v.clone() for k, v in net.state_dict().items()}

    first = crowd.engine.run(crowd.pictures, crowd.prepared)
    second = crowd.engine.run(crowd.pictures, crowd.prepared)

    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
