"""Several tasks at once: each becomes what it would have become alone."""

import numpy as np
import pytest
import torch

from adapters_store import artifact, plain
from adapters_store.backbone import features, weights_digest
from adapters_store.methods.table import METHODS, parse_options
from training.abreast import fit_abreast
from training.data import TaskData, from_arrays
from training.errors import DataInvalidError, DivergedError, RecipeInvalidError
from training.loop import Watch, fit
from training.mixture import MOST, Mixture
from training.recipe import Recipe
from training.together import train_tasks

CPU = torch.device("cpu")
STILL = Recipe(epochs=2, batch=5, lr=1e-2, dropout=0, drop_path=0)
TOLD = ("alore", "karst", "clora", "heart_lora", "lora")  # each has a shape of its own
MIXED = [
    pytest.param(m, marks=() if m in TOLD else pytest.mark.slow) for m in METHODS if m != "linear"
]


@pytest.fixture(scope="session")
def tasks(patterns) -> dict[str, TaskData]:
    """Three tasks of 24, 7 and 13 training images, and of three, two and three classes."""
    train, val = patterns.train, patterns.splits["val"]
    few = train.labels < 2
    small = (train.images[few][:7], train.labels[few][:7])
    turned = {
        "train": (train.images[:13, :, ::-1].copy(), (train.labels[:13] + 1) % 3),
        "val": (val.images, (val.labels + 1) % 3),
    }
    return {
        "whole": patterns,
        "small": from_arrays(("a", "b"), {"train": small, "val": small, "test": small}),
        "turned": from_arrays(("x", "y", "z"), turned),
    }


@pytest.mark.parametrize("method", MIXED)
def test_each_task_gets_the_factors_that_it_would_get_alone(tiny, tasks, method):
    """Without dropout and stochastic depth only rounding differs, for every method."""
    recipe = STILL.model_copy(update={"sade": 0.1}) if method == "clora" else STILL
    options = parse_options(method, {})
    told = {"device": CPU}

    found = fit_abreast(tiny, method, options, tasks, recipe, watch=lambda _: Watch(), **told)

    for task, data in tasks.items():
        alone = fit(tiny, method, options, data, recipe, watch=Watch(), **told)
        for name, wanted in alone.module.export().items():
            torch.testing.assert_close(
                found[task].module.export()[name], wanted, rtol=1e-3, atol=2e-5
            )
        torch.testing.assert_close(found[task].head.weight, alone.head.weight, rtol=1e-3, atol=2e-5)
        for mine, other in zip(found[task].log, alone.log, strict=True):
            assert mine.loss == pytest.approx(other.loss, rel=1e-4)
            assert (mine.epoch, mine.lr) == (other.epoch, other.lr)
            assert mine.val_accuracy == other.val_accuracy


@pytest.mark.slow
@pytest.mark.parametrize("family", ["swin", "convnext", "mixer"])
def test_windows_and_turned_tokens_stay_with_their_image(tinies, family):
    """Where rows of a target are not whole images, they still lie image by image."""
    backbone, rng = tinies[family], np.random.default_rng(0)
    options = parse_options("clora", {})
    members = []
    for _ in range(2):
        members.append(METHODS["clora"].module(options, backbone.spec, 0.0))
        for parameter in members[-1].parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    mixture = Mixture(members)
    mixture.seats.sizes = (3, 2)
    size = backbone.spec.input_size
    images = torch.from_numpy(rng.normal(size=(5, 3, *size)).astype(np.float32))

    with torch.no_grad():
        mixed = features(plain.sited(backbone.net, mixture), images)

        for member, rows in zip(members, (slice(0, 3), slice(3, 5)), strict=True):
            alone = features(plain.sited(backbone.net, member), images[rows])
            torch.testing.assert_close(mixed[rows], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["alore", "karst", "ssf"])
def test_the_frozen_targets_compute_all_rows_in_one_call(tiny, method):
    options = parse_options(method, {})
    mixture = Mixture([METHODS[method].module(options, tiny.spec, 0.0) for _ in range(3)])
    mixture.seats.sizes = (2, 0, 1)
    net, calls = plain.sited(tiny.net, mixture), []
    linear = net.get_submodule("blocks.0.attn.qkv").frozen
    handle = linear.register_forward_hook(lambda _m, given, _y: calls.append(len(given[0])))

    features(net, torch.randn(3, 3, 32, 32))

    handle.remove()
    assert calls == [3]


def test_the_same_command_gives_the_same_bytes(tiny, tasks):
    """With dropout and stochastic depth; and artifacts that a store would take."""
    recipe = Recipe(epochs=2, batch=5, lr=1e-2)

    one, two = (train_tasks(tasks, tiny, "lora", {}, recipe, device=CPU) for _ in range(2))

    assert list(one) == list(tasks)
    for task, made in one.items():
        assert made.data == two[task].data
        manifest = artifact.read(made.data).manifest
        assert manifest.task == task
        assert manifest.labels == tasks[task].classes
        assert manifest.provenance.data == tasks[task].digest
    assert one["small"].adapter.manifest.metrics["test"] > 0.5


def test_each_task_is_told_of_its_own_steps_and_is_done_when_it_is_done(tiny, tasks):
    """24, 7 and 13 images in fives: five, two and three steps an epoch, side by side."""
    told = []

    def watch(task):
        return Watch(on_step=lambda done, of: told.append((task, done, of)))

    fit_abreast(tiny, "lora", parse_options("lora", {}), tasks, STILL, device=CPU, watch=watch)

    assert [t[1:] for t in told if t[0] == "whole"] == [(n, 10) for n in range(1, 11)]
    assert [t[1:] for t in told if t[0] == "small"] == [(n, 4) for n in range(1, 5)]
    assert [t[0] for t in told[:6]] == ["whole", "small", "turned"] * 2
    assert [t[0] for t in told[-4:]] == ["whole"] * 4


def test_the_frozen_weights_and_the_callers_random_numbers_stay(tiny, tasks):
    before = weights_digest(tiny.net)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)

    train_tasks(tasks, tiny, "alore", {}, STILL, device=CPU)

    assert weights_digest(tiny.net) == before
    assert torch.equal(torch.rand(3), wanted)


def test_a_method_without_sites_is_trained_one_task_after_another(tiny, tasks):
    made = train_tasks(tasks, tiny, "linear", {}, STILL, device=CPU)

    assert [t.adapter.manifest.task for t in made.values()] == list(tasks)


def test_a_task_that_diverges_is_named(tiny, tasks):
    wild = STILL.model_copy(update={"lr": 1e30})

    with pytest.raises(DivergedError, match="'lora' on task 'whole' diverged in epoch 1"):
        train_tasks({"whole": tasks["whole"]}, tiny, "lora", {}, wild, device=CPU)


def test_tasks_that_cannot_share_a_batch_are_refused(tiny, tasks):
    """Before anything is computed."""
    large = np.zeros((2, 3, 48, 48), np.uint8)
    other = from_arrays(("a", "b"), {"train": (large, np.array([0, 1]))})

    with pytest.raises(DataInvalidError, match=r"other: images of train are 48x48.* 32x32"):
        train_tasks({**tasks, "other": other}, tiny, "lora", {}, STILL, device=CPU)
    with pytest.raises(RecipeInvalidError, match="0 tasks: at least 1"):
        train_tasks({}, tiny, "lora", {}, STILL, device=CPU)
    crowd = {f"t{n}": tasks["small"] for n in range(MOST + 1)}
    with pytest.raises(RecipeInvalidError, match=f"at most {MOST} go together"):
        train_tasks(crowd, tiny, "lora", {}, STILL, device=CPU)


@pytest.mark.slow
def test_as_many_as_may_go_together_do(tiny, tasks):
    """The stack is deep enough for them, under a test runner too."""
    crowd = {f"t{n}": tasks["small"] for n in range(MOST)}
    recipe = STILL.model_copy(update={"epochs": 1, "batch": 4})

    found = fit_abreast(
        tiny, "lora", parse_options("lora", {}), crowd, recipe, device=CPU,
        watch=lambda _: Watch(),
    )  # fmt: skip

    assert len(found) == MOST
