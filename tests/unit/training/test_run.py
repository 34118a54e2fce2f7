"""One task from images to artifact: what cannot be trained is refused before it costs anything."""

import dataclasses

import numpy as np
import pytest

from adapters_store.errors import ArtifactInvalidError, MethodUnknownError, NameInvalidError
from training.data import Split
from training.errors import DataInvalidError, RecipeInvalidError
from training.loop import Watch
from training.run import train_task, tried


def never(*_):
    """A watch that must not be told anything."""
    raise AssertionError("training began")


@pytest.mark.parametrize(
    ("task", "method", "options", "error"),
    [
        ("No Name", "alore", {}, NameInvalidError),
        ("name\n", "alore", {}, NameInvalidError),
        ("name", "magic", {}, MethodUnknownError),
        ("name", "alore", {"ranks": 2}, ArtifactInvalidError),
        ("name", "alore", {"experts": 5}, RecipeInvalidError),
    ],
)
def test_what_cannot_be_trained_is_refused_first(
    tiny, patterns, brief, task, method, options, error
):
    """A bad name, an unknown method or option, experts that do not divide the width."""
    with pytest.raises(error):
        train_task(patterns, tiny, task, method, options, brief, watch=Watch(on_step=never))


def test_images_of_another_size_are_refused(tiny, patterns, brief):
    """The message names the split and both sizes."""
    small = Split(images=np.zeros((9, 3, 16, 16), np.uint8), labels=patterns.splits["test"].labels)
    data = dataclasses.replace(patterns, splits={**patterns.splits, "test": small})

    with pytest.raises(DataInvalidError, match=r"images of test are 16x16.*reads 32x32"):
        train_task(data, tiny, "name", "alore", {}, brief, watch=Watch(on_step=never))


@pytest.mark.parametrize(("method", "wanted"), [("linear", "fp32"), ("lora", "bf16")])
def test_a_head_alone_learns_from_the_features_that_are_served(
    tiny, patterns, brief, method, wanted
):
    """Features that are computed once are computed in fp32, and the manifest says so."""
    low = brief.model_copy(update={"precision": "bf16"})

    made = train_task(patterns, tiny, "name", method, {}, low)

    assert made.recipe.precision == wanted
    assert made.adapter.manifest.provenance.recipe["precision"] == wanted
    if method == "linear":
        assert made.log[-1].val_accuracy == made.adapter.manifest.metrics["val"]


def test_the_protocol_goes_into_the_manifest_unchanged(tiny, patterns, brief):
    """And nothing of it, nor of how memory was saved, where none was given."""
    protocol = {"chosen": {"lr": 0.01}, "tried": [{"lr": 0.01, "val": 0.5}], "seeds": 3}

    told = train_task(patterns, tiny, "name", "linear", {}, brief, protocol=protocol)
    silent = train_task(patterns, tiny, "name", "linear", {}, brief)

    assert told.adapter.manifest.provenance.recipe["protocol"] == protocol
    assert not {"protocol", "recompute"} & set(silent.adapter.manifest.provenance.recipe)
    assert told.log[-1].loss == silent.log[-1].loss


def test_a_trial_is_the_run_without_its_test_images(tiny, patterns, brief):
    """The same numbers on val; test could be anything."""
    spoilt = Split(images=np.zeros((1, 3, 9, 9), np.uint8), labels=np.zeros(1, np.int64))
    data = dataclasses.replace(patterns, splits={**patterns.splits, "test": spoilt})

    last = tried(data, tiny, "alore", {}, brief)

    made = train_task(patterns, tiny, "name", "alore", {}, brief)
    assert (last.epoch, last.loss) == (3, made.log[-1].loss)
    assert last.val_accuracy == made.log[-1].val_accuracy
