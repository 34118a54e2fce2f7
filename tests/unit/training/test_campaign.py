"""A search and its final runs in this process, and what a broken-off one remembers."""

from dataclasses import replace

import numpy as np
import pytest

from adapters_store import artifact
from training import acts
from training.acts import Here, Item, Job, attempt
from training.campaign import Campaign
from training.data import Split
from training.errors import DivergedError
from training.journal import Journal
from training.protocol import Point, grid
from training.recipe import compose
from training.watch import Watch


def points(method="lora", **axes):
    found = []
    for chosen in grid(axes):
        options, recipe = compose(method, {"epochs": 1, "batch": 12, "dropout": 0, **chosen})
        found.append(Point(settings=chosen, options=options.model_dump(), recipe=recipe))
    return found


class Counted(Here):
    """Hands that count, and that are cut off after so many acts."""

    def __init__(self, stop_after=99):
        super().__init__(lambda _: Watch())
        object.__setattr__(self, "done", [])
        object.__setattr__(self, "stop_after", stop_after)

    __slots__ = ("done", "stop_after")

    def each(self, act, job, items):
        for at, outcome in super().each(act, job, items):
            if len(self.done) == self.stop_after:
                raise KeyboardInterrupt
            self.done.append(items[at].name)
            yield at, outcome


def campaign(tiny, data, hands, journal=None, **axes):
    return Campaign(
        job=Job(data=data, backbone=tiny, task="patterns", method="lora"),
        points=points(**(axes or {"lr": (1e-4, 2e-2)})),
        seeds=(0, 1),
        hands=hands,
        journal=Journal(journal),
        checkpoints=journal,
    )


@pytest.fixture(scope="module")
def whole(tiny, patterns):
    return campaign(tiny, patterns, Counted()).run()


def test_the_manifest_records_the_search_and_the_seeds(whole):
    made = whole.runs[0]
    told = artifact.read(made.data).manifest.provenance.recipe["protocol"]

    assert told["points"] == [
        {**trial.point.settings, "val_accuracy": trial.val_accuracy} for trial in whole.trials
    ]
    assert told["seeds"] == [0, 1]
    assert told["trained_on"] == "train+val"
    assert made.recipe.lr == whole.trials[told["chosen"]].point.recipe.lr
    assert [run.recipe.seed for run in whole.runs] == [0, 1]


def test_final_runs_learn_from_train_and_val_and_answer_test(whole):
    assert set(whole.runs[0].adapter.manifest.metrics) == {"train", "test"}
    assert all(row.val_accuracy is None for row in whole.runs[0].log)


def test_other_test_images_change_no_choice_and_no_factor(tiny, patterns, whole):
    """The search and the fits are the same bits whatever the test split holds."""
    test = patterns.splits["test"]
    noise = np.random.default_rng(1).integers(0, 255, test.images.shape).astype(np.uint8)
    other = {**patterns.splits, "test": Split(images=noise, labels=test.labels)}

    found = campaign(tiny, replace(patterns, splits=other), Counted()).run()

    assert [t.val_accuracy for t in found.trials] == [t.val_accuracy for t in whole.trials]
    for mine, theirs in zip(found.runs, whole.runs, strict=True):
        for name, factor in mine.adapter.tensors.items():
            assert np.array_equal(factor, theirs.adapter.tensors[name])


def test_no_fit_is_given_the_test_split(tiny, patterns, monkeypatch):
    seen = []
    fit = acts.fit_task

    def spied(images, *args, **named):
        seen.append(set(images.splits))
        return fit(images, *args, **named)

    monkeypatch.setattr(acts, "fit_task", spied)
    campaign(tiny, patterns, Counted()).run()

    assert seen == [{"train", "val"}] * 2 + [{"train"}] * 2


def test_a_point_that_diverges_is_a_bad_point(tiny, patterns, monkeypatch):
    def diverging(*args, **named):
        raise DivergedError("lora", 1)

    monkeypatch.setattr(acts, "fit_task", diverging)
    job = Job(data=patterns, backbone=tiny, task="patterns", method="lora")

    found = attempt(job, Item(name="p", point=points()[0]), Watch(), acts.ALONE)

    assert found.val_accuracy is None


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_campaign_that_was_cut_off_goes_on_to_the_same_bytes(
    tiny, patterns, tmp_path, whole, stop_after
):
    """What was done is not done again."""
    with pytest.raises(KeyboardInterrupt):
        campaign(tiny, patterns, Counted(stop_after), tmp_path).run()
    hands = Counted()

    found = campaign(tiny, patterns, hands, tmp_path).run()

    assert [run.data for run in found.runs] == [run.data for run in whole.runs]
    assert [run.log[-1].loss for run in found.runs] == [run.log[-1].loss for run in whole.runs]
    assert found.trials[0].val_accuracy == whole.trials[0].val_accuracy
    assert len(hands.done) == 4 - stop_after


def test_a_journal_of_other_settings_or_damaged_says_nothing(tiny, patterns, tmp_path):
    campaign(tiny, patterns, Counted(), tmp_path).run()
    hands = Counted()
    campaign(tiny, patterns, hands, tmp_path, lr=(1e-4, 3e-2)).run()
    assert "point 2/2: lr=0.03" in hands.done
    assert "point 1/2: lr=0.0001" not in hands.done

    for file in tmp_path.glob("done-*.json"):
        file.write_text("{")
    hands = Counted()
    campaign(tiny, patterns, hands, tmp_path).run()
    assert len(hands.done) == 4
