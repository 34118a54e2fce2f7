"""Grids, the choice on val, and what is recorded of it."""

import numpy as np
import pytest

from training.data import from_arrays
from training.errors import DataInvalidError, RecipeInvalidError
from training.protocol import (
    Point,
    Trial,
    choose,
    grid,
    parse_axes,
    record,
    searchable,
    seeds_from,
    settings_text,
    spread,
)
from training.recipe import Recipe
from training.watch import Epoch


def trial(val, **settings):
    last = None
    if val is not None:
        last = Epoch(
            epoch=1, epochs=1, lr=1e-3, loss=1, train_accuracy=1, val_accuracy=val, seconds=1
        )
    return Trial(point=Point(settings=settings, options={}, recipe=Recipe()), last=last)


def test_a_grid_is_every_combination_and_the_last_axis_varies_fastest():
    axes = parse_axes(["lr=1e-3,1e-2", "rank=4,8"], "lora")

    assert grid(axes) == (
        {"lr": 1e-3, "rank": 4},
        {"lr": 1e-3, "rank": 8},
        {"lr": 1e-2, "rank": 4},
        {"lr": 1e-2, "rank": 8},
    )
    assert grid({}) == ({},)


def test_values_are_json_or_texts():
    axes = parse_axes(['roles=["qkv"],["qkv","proj"]', "variant=q, qv"], "lora")

    assert axes == {"roles": (["qkv"], ["qkv", "proj"]), "variant": ("q", "qv")}


def test_a_key_alone_stands_for_what_papers_searched():
    assert parse_axes(["scale"], "lora") == {"scale": (0.01, 0.1, 1.0, 10.0, 100.0)}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("lr=", "lr has an empty value"),
        ("lr=1e-3,,1e-2", "lr has an empty value"),
        ("lr=0.1,0.10", "lr has the same value twice"),
        ("=1,2", "is not key=value"),
        ("", "is not key=value"),
        ("batch", "no paper's values of batch are known for lora"),
        ("seed=1,2", "--seeds"),
        ("geometry=squash,timm", "images are read once"),
        ("rank=" + ",".join(map(str, range(1001))), "a grid of 1001 points"),
    ],
)
def test_a_malformed_axis_is_named(item, message):
    with pytest.raises(RecipeInvalidError, match=message):
        parse_axes([item], "lora")


def test_every_malformed_axis_is_named_at_once():
    with pytest.raises(RecipeInvalidError) as caught:
        parse_axes(["lr=1,2", "lr=3", "rank="], "lora")

    assert caught.value.faults == ("lr is swept twice", "rank has an empty value")


def test_the_best_on_val_is_chosen_and_ties_go_to_the_first():
    assert choose([trial(0.5), trial(0.7), trial(0.7), trial(None)]) == 1


def test_a_sweep_that_diverges_everywhere_is_refused():
    with pytest.raises(RecipeInvalidError, match="every point"):
        choose([trial(None), trial(None)])


def test_a_search_cannot_see_the_test_split(patterns):
    """Not by its name, and not by walking over all there is."""
    seen = searchable(patterns)

    assert set(seen.splits) == {"train", "val"}
    assert seen.digest == patterns.digest
    held = [split.images for split in seen.splits.values()]
    assert not any(np.shares_memory(one, patterns.splits["test"].images) for one in held)


def test_a_search_without_val_is_refused():
    single = np.zeros((2, 3, 8, 8), dtype=np.uint8)
    data = from_arrays(("a", "b"), {"train": (single, np.array([0, 1]))})

    with pytest.raises(DataInvalidError, match="no validation images"):
        searchable(data)


def test_the_record_says_what_was_tried_chosen_and_run():
    told = record([trial(0.5, lr=0.1), trial(None, lr=1.0)], (3, 4), kept_val=True)

    assert told["points"] == [
        {"lr": 0.1, "val_accuracy": 0.5},
        {"lr": 1.0, "val_accuracy": None},
    ]
    assert told["chosen"] == 0
    assert told["chosen_on"] == "val"
    assert told["trained_on"] == "train+val"
    assert told["seeds"] == [3, 4]
    assert "points" not in record([], (0,), kept_val=False)


def test_seeds_spread_and_texts():
    assert seeds_from(5, 3) == (5, 6, 7)
    assert spread([0.5, 0.7]) == (pytest.approx(0.6), pytest.approx(0.1414, abs=1e-4))
    assert spread([0.5]) == (0.5, 0.0)
    assert spread([]) is None
    assert settings_text({"lr": 0.01, "variant": "qv"}) == "lr=0.01 variant=qv"
