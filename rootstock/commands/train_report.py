"""What `rootstock train` leaves and says: the report folder, one JSON value, or text."""

import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootstock.commands.train_order import Order
from rootstock.console import out, table

if TYPE_CHECKING:
    from adapters_store.backbone import Backbone
    from adapters_store.store import Published
    from training.data import TaskData
    from training.full import TrainedModel
    from training.protocol import Trial
    from training.run import TrainedTask

_SECRET = re.compile(r"//[^/@\s]+@")  # s3://key:secret@bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One task that was trained, and everything there is to say about it."""

    task: str
    order: Order
    file: Path
    report: Path | None
    images: "TaskData"  # as they came
    runs: "Sequence[TrainedTask | TrainedModel]" = ()  # one a seed; the file is the first one's
    trials: "Sequence[Trial]" = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    published: "Published | None" = None

    @property
    def made(self) -> "TrainedTask | TrainedModel":
        """What the file holds."""
        return self.runs[0]

    @property
    def tests(self) -> tuple[float, ...]:
        """Test accuracy, seed by seed."""
        return tuple(scores["test"] for run in self.runs if "test" in (scores := metrics(run)))


def metrics(made: "TrainedTask | TrainedModel") -> dict[str, float]:
    """Split → accuracy."""
    from training.run import TrainedTask

    found = made.adapter.manifest.metrics if isinstance(made, TrainedTask) else made.metrics
    return dict(found)


def options(ended: Ended) -> dict[str, Any]:
    """The method's options as they were used."""
    from training.run import TrainedTask

    made = ended.made
    return dict(made.adapter.manifest.options) if isinstance(made, TrainedTask) else {}


def reported(ended: Ended, backbone: "Backbone", begun: float) -> None:
    """Write the report folder; `begun` is of `time.time`."""
    if ended.report is None:
        return
    from adapters_store.artifact import digest
    from training.files import shown
    from training.report.asked import asked
    from training.report.facts import Facts
    from training.report.folder import write
    from training.versions import versions

    made, data = ended.made, ended.images
    seen = data.with_trainval() if ended.order.campaign and "test" not in data.splits else data
    facts = Facts(
        task=ended.task,
        method=ended.order.method,
        options=options(ended),
        recipe=made.recipe.model_dump(mode="json"),
        backbone=backbone.spec.ref.model_dump(mode="json"),
        preprocess=made.recipe.preprocess(backbone.spec).model_dump(mode="json"),
        classes=data.classes,
        sizes=sizes(data),
        data=data.digest,
        skipped=data.skipped,
        versions=versions(),
        parameters=made.parameters,
        file=shown(ended.file.name),
        bytes=len(made.data),
        digest=digest(made.data),
        metrics=metrics(made),
        protocol=ended.protocol,
        tests=ended.tests,
        trials=trial_rows(ended.trials),
        logs={run.recipe.seed: run.log for run in ended.runs},
        answers=asked(made, seen, backbone),
    )
    write(ended.report, facts, _circumstances(begun))


def sizes(data: "TaskData") -> dict[str, int]:
    """Split → images."""
    return {name: len(split.labels) for name, split in data.splits.items()}


def trial_rows(trials: "Sequence[Trial]") -> list[dict[str, Any]]:
    """The search as rows: settings, and the last epoch of each."""
    return [
        {
            "settings": dict(trial.point.settings),
            "val_accuracy": trial.val_accuracy,
            "last": None if trial.last is None else asdict(trial.last),
        }
        for trial in trials
    ]


def trial_row(trial: "Trial") -> tuple[str, str]:
    """Settings, and what they gave on val."""
    from training.protocol import settings_text

    val = trial.val_accuracy
    scored = "diverged" if val is None else f"{100 * val:.2f} %"
    return settings_text(trial.point.settings), scored


def value(ended: Ended, begun: float) -> dict[str, Any]:
    """What `--json` prints of one task."""
    from adapters_store.artifact import digest
    from training.files import shown
    from training.protocol import spread
    from training.run import TrainedTask

    made = ended.made
    over = spread(ended.tests)
    return {
        "task": ended.task,
        "method": ended.order.method,
        "layout": ended.order.layout,
        "file": shown(str(ended.file)),
        "digest": digest(made.data),
        "bytes": len(made.data),
        "parameters": made.parameters,
        "metrics": metrics(made),
        "law": asdict(made.report) if isinstance(made, TrainedTask) else None,
        "recipe": made.recipe.model_dump(mode="json"),
        "options": options(ended),
        "images": sizes(ended.images),
        "skipped": list(ended.images.skipped),
        "protocol": dict(ended.protocol) or None,
        "trials": trial_rows(ended.trials),
        "seeds": [
            {"seed": run.recipe.seed, "digest": digest(run.data), "metrics": metrics(run)}
            for run in ended.runs
        ],
        "test": over and {"mean": over[0], "std": over[1], "seeds": len(ended.tests)},
        "seconds": round(time.time() - begun, 2),
        "log": [asdict(row) for row in made.log],
        "report": None if ended.report is None else shown(str(ended.report)),
        "published": _published(ended.published),
    }


def show(ended: Ended) -> None:
    """The same for a reader."""
    from training.files import shown
    from training.protocol import spread
    from training.run import TrainedTask

    made = ended.made
    if ended.trials:
        chosen = ended.protocol["chosen"]
        rows = [
            (*trial_row(trial), "chosen" if at == chosen else "")
            for at, trial in enumerate(ended.trials)
        ]
        table(("settings", "val", ""), rows)
    if len(ended.tests) > 1 and (over := spread(ended.tests)):
        out.print(
            f"test over {len(ended.tests)} seeds: {100 * over[0]:.2f} ± {100 * over[1]:.2f} %",
            markup=False,
        )
    accuracy = ", ".join(f"{name} {100 * v:.2f} %" for name, v in metrics(made).items())
    out.print(f"accuracy: {accuracy}", markup=False)
    if isinstance(made, TrainedTask):
        law = f"module {made.report.trained:.1e}, merged {made.report.merged:.1e}"
        out.print(f"law: {law} relative", markup=False)
    out.print(
        f"wrote {shown(str(ended.file))} "
        f"({len(made.data):,} bytes, {made.parameters:,} parameters)",
        markup=False,
    )
    if ended.report is not None:
        out.print(f"report: {shown(str(ended.report))}/README.md", markup=False)
    if (published := ended.published) is not None:
        verb = "published as" if published.created else "was already"
        out.print(f"{verb} {ended.task}@{published.release.number}", markup=False)


def _published(published: "Published | None") -> dict[str, Any] | None:
    if published is None:
        return None
    return {
        "release": published.release.number,
        "generation": published.generation,
        "created": published.created,
    }


def _circumstances(begun: float) -> dict[str, Any]:
    """What differs between identical runs."""
    import torch

    from training.files import shown

    cuda = torch.cuda.is_available()
    return {
        "started": datetime.fromtimestamp(begun, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - begun, 2),
        "command": [_SECRET.sub("//…@", shown(word)) for word in sys.argv],
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
    }
