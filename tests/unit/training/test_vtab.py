"""VTAB-1k's tasks and averages, held against numbers of the literature."""

import pytest

from training.errors import LayoutUnknownError, ScoresIncompleteError
from training.vtab import TASKS, group_means, mean3, mean19, task_named

# Full fine-tuning of ViT-B/16, in the order of the table that every paper prints.
FULL = (
    *(68.9, 87.7, 64.3, 97.2, 86.9, 87.4, 38.8),
    *(79.7, 95.7, 84.2, 73.9),
    *(56.3, 58.6, 41.7, 65.5, 57.5, 46.7, 25.7, 29.1),
)
SCORES = {task.name: score for task, score in zip(TASKS, FULL, strict=True)}


def test_both_averages_are_those_of_the_papers():
    """65.57 and 68.97 for the same nineteen numbers."""
    assert round(mean19(SCORES), 2) == 65.57
    assert round(mean3(SCORES), 2) == 68.97
    groups = {name: round(mean, 2) for name, mean in group_means(SCORES).items()}
    assert groups == {"natural": 75.89, "specialized": 83.38, "structured": 47.64}


def test_heads_of_all_tasks_together_have_the_published_size():
    """769 numbers a class of ViT-B/16: 38 045 in the mean."""
    assert sum(task.classes for task in TASKS) * 769 // 19 == 38_045


def test_tasks_have_the_names_of_folders_and_of_papers():
    """Scores may be given under either."""
    assert task_named("cifar100") is task_named("cifar")
    renamed = {**SCORES, "pets": SCORES["oxford_iiit_pet"]}
    del renamed["oxford_iiit_pet"]

    assert mean19(renamed) == mean19(SCORES)


def test_an_average_without_all_tasks_is_refused():
    """It would be another number under the same name."""
    scores = {name: score for name, score in SCORES.items() if name not in ("svhn", "dtd")}

    with pytest.raises(ScoresIncompleteError) as caught:
        mean3({**scores, "mnist": 99.0})

    assert caught.value.missing == ("dtd", "svhn")
    assert caught.value.unknown == ("mnist",)


def test_an_unknown_task_is_refused_with_the_known_ones():
    """By the names of the command line."""
    with pytest.raises(LayoutUnknownError, match="vtab:smallnorb_ele"):
        task_named("mnist")
