"""Settings: each goes to the one that knows it, and the learning rate follows from them."""

import pytest

from adapters_store.errors import MethodUnknownError
from adapters_store.methods.table import METHODS
from training.errors import RecipeInvalidError, SettingUnknownError
from training.recipe import FULL, IDLE, PUBLISHED, QUICK, Recipe, changed, compose, parse_settings


def test_every_method_has_its_recipes():
    """A published one, and one for a few epochs."""
    assert set(PUBLISHED) == set(QUICK) == set(METHODS)


def test_settings_go_to_the_method_or_to_the_recipe():
    """And what is not set stays as it is published."""
    settings = parse_settings(["scale=5", "rank=2", "variant=qkv", "lr=5e-3", "batch=32"])

    options, recipe = compose("lora", settings)

    assert (options.variant, options.rank, options.scale) == ("qkv", 2, 5.0)
    assert recipe == PUBLISHED["lora"].model_copy(update={"lr": 5e-3, "batch": 32})


def test_another_recipe_can_be_the_start():
    """Settings change the recipe that is given."""
    _, recipe = compose("alore", {"epochs": 3}, base=QUICK["alore"])

    assert recipe == QUICK["alore"].model_copy(update={"epochs": 3})


@pytest.mark.parametrize("method", METHODS)
def test_no_setting_belongs_to_both(method):
    """Else the method would take it and the recipe would never see it."""
    assert not set(METHODS[method].options.model_fields) & set(Recipe.model_fields)


def test_an_unknown_setting_is_refused_with_the_known_ones():
    """The message lists the options of the method and the fields of the recipe."""
    with pytest.raises(SettingUnknownError) as caught:
        compose("linear", {"scale": 2})

    assert caught.value.key == "scale"
    assert "weight_decay" in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0},
        {"lr": float("nan")},
        {"epochs": 0},
        {"batch": 1.5},
        {"drop_path": 1},
        {"geometry": "crop"},
        {"rank": "many"},
        {"variant": "C"},
        {"scale": -1},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    """Of the recipe and of the method alike, by one kind of error that names the setting."""
    with pytest.raises(RecipeInvalidError, match=next(iter(settings))):
        compose("alore", settings)


def test_malformed_and_repeated_settings_are_refused_together():
    """Every fault is listed."""
    with pytest.raises(RecipeInvalidError) as caught:
        parse_settings(["lr", "=3", "lr=1", "lr=2"])

    assert caught.value.faults == (
        "'lr' is not key=value",
        "'=3' is not key=value",
        "lr is given twice",
    )


def test_an_unknown_method_is_refused():
    """Before its settings are looked at."""
    with pytest.raises(MethodUnknownError):
        compose("magic", {})


def test_the_rate_rises_to_its_peak_and_falls_to_a_hundredth():
    """Linear warm-up, then a cosine; never above the peak."""
    recipe = Recipe(epochs=100, lr=1e-3)

    rates = [recipe.rate(step, 1300) for step in range(1300)]

    assert max(rates) == rates[130] == 1e-3
    assert rates[:131] == sorted(rates[:131])
    assert rates[130:] == sorted(rates[130:], reverse=True)
    assert rates[-1] == pytest.approx(1e-5, rel=0.01)
    assert rates[0] > 0


def test_warm_up_takes_a_fifth_of_a_short_run_at_most():
    """Ten published epochs of warm-up do not eat a run of ten."""
    recipe = Recipe(epochs=10)

    rates = [recipe.rate(step, 100) for step in range(100)]

    assert rates.index(max(rates)) == 20


def test_a_single_step_has_a_rate():
    """One epoch of one batch still learns at the peak."""
    assert Recipe(epochs=1).rate(0, 1) == 1e-3


def test_a_recipe_says_what_pictures_become(tiny):
    """Geometry and scaling of inputs, as they will stand in the manifest."""
    own = Recipe().preprocess(tiny.spec)
    named = Recipe(geometry="timm", normalise="imagenet").preprocess(tiny.spec)

    assert (own.mean, own.std) == (tiny.spec.mean, tiny.spec.std)
    assert (named.geometry, named.mean[0], named.std[0]) == ("timm", 0.485, 0.229)
    assert Recipe(normalise="none").preprocess(tiny.spec).std == (1, 1, 1)
    assert Recipe(normalise="half").preprocess(tiny.spec).mean == (0.5, 0.5, 0.5)


SEARCHED = ("lr", "weight_decay", "drop_path")
SIZES = {"repadapter": "hidden"}  # what a method calls its rank, where it calls it otherwise
SCALES = {"karst": "multiplier"}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_searched_can_be_set_for_every_method_that_has_it(method):
    """Rate and decay of all; drop-path, rank and scale of those that have a place for it."""
    names = (*SEARCHED, SIZES.get(method, "rank"), SCALES.get(method, "scale"))
    fields = METHODS[method].options.model_fields
    chosen = {name: 0.25 for name in names if name in SEARCHED or name in fields}
    chosen |= {name: 4 for name in names[3:4] if name in fields}
    for name in IDLE.get(method, ()):
        chosen.pop(name, None)

    options, recipe = compose(method, chosen)

    values = {**options.model_dump(), **recipe.model_dump()}
    assert {name: values[name] for name in chosen} == chosen
    assert len(chosen) == 5 - {"arc": 1, "ssf": 2, "bitfit": 2, "linear": 3}.get(method, 0)


def test_a_recipe_is_dumped_the_same_way_every_time():
    """In one order, as JSON, and read back to the same recipe; and it cannot be changed."""
    dump = Recipe(lr=2e-3).model_dump_json()

    assert Recipe.model_validate_json(dump).model_dump_json() == dump
    with pytest.raises(ValueError, match="frozen"):
        Recipe().lr = 1


def test_the_cosine_ends_where_the_recipe_says():
    """At a share of the peak: a tenth in KARST's code, nothing in ARC's."""
    ends = {name: PUBLISHED[name].rate(12_999, 13_000) for name in ("karst", "arc", "lora")}

    assert ends == pytest.approx({"karst": 1e-4, "arc": 0, "lora": 1e-5}, rel=1e-3, abs=1e-8)


def test_a_recipe_alone_can_be_changed():
    """That of full fine-tuning is of no method; what it does not have is refused."""
    assert changed(FULL, {"epochs": 3}) == FULL.model_copy(update={"epochs": 3})
    with pytest.raises(RecipeInvalidError, match="scale"):
        changed(FULL, {"scale": 3})
