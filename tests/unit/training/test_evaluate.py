"""Measuring: the plain path's answers, in batches."""

import numpy as np
import pytest
import torch

from adapters_store import plain
from adapters_store.methods.table import METHODS, lower
from training.evaluate import logits, moved, score

CPU = torch.device("cpu")


@pytest.fixture
def adapter(tiny, make_adapter):
    """Random, for three labels."""
    return make_adapter(tiny, "alore", labels=3)


@pytest.mark.parametrize("method", METHODS)
def test_batches_are_answered_as_the_plain_path_answers_one_image(
    tiny, patterns, make_adapter, method
):
    """Whatever the batch, the last one being short."""
    adapter = make_adapter(tiny, method, labels=3)
    images = patterns.train.images[:7]

    batched = logits(tiny, adapter, images, device=CPU, batch=3)

    np.testing.assert_allclose(batched, plain.logits(tiny, adapter, images), rtol=1e-4, atol=1e-4)


def test_bf16_answers_are_near(tiny, patterns, adapter):
    """Within the effect check's tolerance for bf16."""
    images = patterns.train.images[:6]
    whole = logits(tiny, adapter, images, device=CPU)

    low = logits(tiny, adapter, images, device=CPU, precision="bf16")

    assert low.dtype == np.float32
    assert np.linalg.norm(low - whole) / np.linalg.norm(whole) < 5e-2


def test_a_score_counts_every_class(tiny, patterns, adapter):
    """Images and right answers a class, whose sums are the accuracy."""
    split = patterns.splits["test"]
    guesses = plain.logits(tiny, adapter, split.images).argmax(1)

    found = score(tiny, adapter, split, device=CPU)

    assert [c.images for c in found.classes] == [3, 3, 3]
    assert found.images == 9
    assert found.correct == int((guesses == split.labels).sum())
    assert found.accuracy == found.correct / 9
    assert tuple(c.label for c in found.classes) == adapter.manifest.labels


@pytest.mark.parametrize("method", METHODS)
def test_a_form_can_be_moved_to_a_device(tiny, make_adapter, method):
    """Every tensor of every operator goes along; slices stay what they are."""
    form = lower(make_adapter(tiny, method, effect=False), tiny.spec)

    for target in form.values():
        there = moved(target, torch.device("meta"))
        for op, old in zip((*there.P, *there.Q), (*target.P, *target.Q), strict=True):
            assert op.down.is_meta
            assert op.up.is_meta
            assert op.rows.is_meta if isinstance(old.rows, torch.Tensor) else op.rows == old.rows
