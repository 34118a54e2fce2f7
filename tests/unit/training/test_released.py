"""Settings released by task: a start for the methods that have them, and a line that says so."""

import pytest

from adapters_store.methods.table import METHODS
from training.errors import LayoutUnknownError
from training.grids import GRIDS
from training.presets import FGVC, LAYOUTS
from training.recipe import FULL, PUBLISHED, changed, compose
from training.released import FGVC_SSF, VTAB, released
from training.vtab import TASKS


def test_every_task_has_its_row():
    """Of VTAB-1k and of FGVC."""
    assert list(VTAB) == [task.name for task in TASKS]
    assert set(FGVC_SSF) == set(FGVC)


def test_the_tables_are_those_of_the_papers():
    """FacT's mean sizes over VTAB-1k are published: 39 734 and 68 985 numbers on ViT-B/16."""
    tt = [row.fact_tt[0] for row in VTAB.values()]
    tk = [row.fact_tk[0] for row in VTAB.values()]

    assert round(sum(1536 * r + 144 * r**2 for r in tt) / 19) == 39_734
    assert round(sum(1536 * r + 144 * r + r**3 for r in tk) / 19) == 68_985


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
def test_every_start_is_one_that_the_method_can_make(method, layout):
    """No setting is unknown or out of range."""
    options, recipe = compose(method, {}, layout=layout)

    start = released(method, layout, {})
    values = {**options.model_dump(), **recipe.model_dump()}
    for key, value in (start.settings if start else {}).items():
        assert values[key] == value
    if start is None:
        assert recipe == PUBLISHED[method]


def test_what_is_released_for_a_task_stands_where_nothing_else_is_said():
    """A setting of the user's own wins, and RepAdapter's scale follows its placement."""
    _, recipe = compose("ssf", {"lr": 0.5}, layout="vtab:eurosat")
    assert (recipe.lr, recipe.weight_decay, recipe.drop_path) == (0.5, 5e-2, 0.2)

    assert compose("fact_tt", {}, layout="vtab:svhn")[0].model_dump() == {"rank": 16, "scale": 100}
    both, _ = compose("repadapter", {}, layout="vtab:eurosat")
    alone, _ = compose("repadapter", {"placement": "attention"}, layout="vtab:eurosat")
    assert (both.scale, alone.scale) == (1, 5)


def test_a_start_says_what_it_is():
    """With the values, without those that were set otherwise, and how inputs were scaled."""
    start = released("fact_tk", "vtab:cifar100", {"rank": 8})

    assert start.says == (
        "fact_tk starts from what is released for vtab:cifar100: scale=0.1 "
        "(published with normalise=imagenet)"
    )
    assert released("alore", "vtab:cifar", {}) is None


@pytest.mark.parametrize("method", METHODS)
def test_fine_grained_data_is_cropped_and_flipped(method):
    """Whatever the method; VTAB-1k is not."""
    _, birds = compose(method, {}, layout="fgvc:cub")
    _, cifar = compose(method, {}, layout="vtab:cifar")

    assert (birds.augment, birds.geometry) == ("crop_flip", "timm")
    assert (cifar.augment, cifar.geometry) == ("none", "squash")


@pytest.mark.parametrize("layout", ["vtab:mnist", "fgvc:planes", "folder"])
def test_an_unknown_layout_is_refused(layout):
    """Before anything is composed."""
    with pytest.raises(LayoutUnknownError):
        compose("ssf", {}, layout=layout)


@pytest.mark.parametrize("method", GRIDS)
def test_every_value_of_a_published_grid_can_be_tried(method):
    """Each of them alone."""
    for key, values in GRIDS[method].items():
        for value in values:
            if method == "full":
                assert changed(FULL, {key: value}).model_dump()[key] == value
            else:
                options, recipe = compose(method, {key: value})
                assert {**options.model_dump(), **recipe.model_dump()}[key] == value
