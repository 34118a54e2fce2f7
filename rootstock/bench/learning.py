"""Whether every method learns: one task, one backbone, the same budget. Knows no HTTP."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters_store.backbone import Backbone
    from training.data import TaskData
    from training.loop import Watch


def scans(backbone: "Backbone") -> "TaskData":
    """The task that needs no download: scikit-learn's scans of digits, 800 train and 200 val."""
    from rootstock.demo.scans import QUESTIONS, load

    return load().data(QUESTIONS[0], backbone.spec.preprocess())


def measure(
    backbone: "Backbone",
    data: "TaskData",
    methods: Sequence[str],
    epochs: int,
    seed: int,
    watch: Callable[[str], "Watch"] | None = None,
) -> Iterator[dict[str, Any]]:
    """Train each method once by its quick recipe; one row a method, as soon as it is there.

    The head alone has its own number of epochs: its features are computed once.
    """
    from training.recipe import QUICK, compose
    from training.run import NOBODY, train_task
    from training.trunk import default_device, native_precision

    precision = native_precision(default_device())

    for method in methods:
        settings: dict[str, Any] = {"seed": seed, "precision": precision}
        if method != "linear":
            settings["epochs"] = epochs
        options, recipe = compose(method, settings, QUICK[method])
        seen = NOBODY if watch is None else watch(method)
        made = train_task(
            data, backbone, "learning", method, options.model_dump(), recipe, watch=seen
        )
        yield {
            "method": method,
            "parameters": made.parameters,
            "artifact_bytes": made.adapter.factor_bytes,
            "epochs": recipe.epochs,
            "batch": recipe.batch,
            "lr": recipe.lr,
            "first_loss": made.log[0].loss,
            "last_loss": made.log[-1].loss,
            "train": made.adapter.manifest.metrics["train"],
            "val": made.adapter.manifest.metrics.get("val"),
            "seconds": sum(epoch.seconds for epoch in made.log),
        }
