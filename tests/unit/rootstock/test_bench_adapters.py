"""Adapters to measure with: valid, distinct, and loud enough that a deaf arm is noticed."""

import numpy as np
import pytest

from adapters_store import admission, artifact, plain
from adapters_store.effect import Golden, relative
from adapters_store.errors import MethodUnknownError
from adapters_store.methods.table import METHODS
from rootstock.bench.adapters import Choice, Maker, artifacts, choices, noise, variation


@pytest.mark.parametrize("method", [name for name in METHODS if name != "linear"])
def test_an_adapter_changes_answers_far_beyond_the_errors_of_bf16(tiny, method):
    made = Maker(tiny).make(method, "task", 1, effect=False)
    picture = noise(tiny.spec, 1)

    moved = relative(plain.logits(tiny, made, picture), plain.answers(tiny.net, made, picture))

    assert 0.1 < moved < 10


def test_an_adapter_is_the_same_for_the_same_seed_and_another_for_another(tiny):
    one, same = (Maker(tiny).make("alore", "task", 1) for _ in range(2))
    other = Maker(tiny).make("alore", "task", 2)

    assert artifact.write(one) == artifact.write(same) != artifact.write(other)


def test_varied_artifacts_are_distinct_admitted_and_keep_their_promise(tiny):
    maker, golden = Maker(tiny), Golden(tiny)
    bases = [maker.make("lora", f"base-{i}", i) for i in range(2)]

    made = dict(artifacts(bases, 5))

    assert len({artifact.digest(data) for data in made.values()}) == 5
    for task, data in made.items():
        golden.check(admission.admit(data, tiny.spec, task=task))


def test_no_two_tasks_of_one_base_answer_alike(tiny):
    base = Maker(tiny).make("lora", "base", 0)

    found = [
        np.array(variation(base, f"task-{n}", n).manifest.effect.logits) for n in range(0, 1200, 4)
    ]

    apart = [relative(a, b) for i, a in enumerate(found) for b in found[:i]]
    assert min(apart) > 0.3  # one in a checked batch of eight is then 0.1, twice what bf16 may err


def test_a_method_is_named_with_its_options(tiny):
    choice = Choice.parse("lora:variant=qv,rank=4")

    assert (choice.method, dict(choice.options)) == ("lora", {"variant": "qv", "rank": 4})
    assert Choice.parse("lora").options == {"variant": "qkv"}
    with pytest.raises(MethodUnknownError):
        Choice.parse("mora:rank=4")


def test_all_are_the_methods_that_the_backbone_has_a_place_for(tinies):
    vit = [c.name for c in choices(["all"], tinies["vit"].spec)]
    mixer = [c.name for c in choices(["all"], tinies["mixer"].spec)]

    assert vit == [name for name in METHODS if name != "linear"]
    assert 0 < len(mixer) < len(vit)
    assert [c.name for c in choices([], tinies["mixer"].spec)] == ["alore", "karst"]
    assert "linear" not in mixer


def test_noise_is_seeded(tiny):
    assert np.array_equal(noise(tiny.spec, 2), noise(tiny.spec, 2))
    assert not np.array_equal(noise(tiny.spec, 2), noise(tiny.spec, 2, seed=1))
