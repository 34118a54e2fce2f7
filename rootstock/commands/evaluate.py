"""`rootstock evaluate`: artifacts and a folder of images in, scores out."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from rootstock.commands.train_options import AsJson, Batch, Data, Layout, Strict, Threads, Weights
from rootstock.commands.train_order import settled_threads
from rootstock.commands.train_progress import left_out
from rootstock.console import artifact_bytes, emit, fail, guarded, out, table

if TYPE_CHECKING:
    from adapters_store.backbone import Backbone

VTAB: Final = "vtab"  # the layout by which every artifact is measured on its own task of VTAB-1k


@guarded
def evaluate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="artifacts")],
    data: Data,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    weights: Weights = None,
    layout: Layout = None,
    strict: Strict = False,
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    batch: Batch = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Measure artifacts on one split of an image folder, list files, VTAB-1k or FGVC.

    With --layout vtab each is measured on the task that it names; nineteen of them have means.
    """
    if precision not in ("fp32", "bf16"):
        fail(f"--precision is fp32 or bf16, not {precision!r}")
    settled_threads(threads)
    how: dict[str, Any] = {
        "split": split,
        "weights": weights,
        "precision": precision,
        "batch": batch,
    }
    opened: dict[str, Backbone] = {}
    found = [_measured(f, data, opened, layout=layout, strict=strict, **how) for f in files]
    if len(found) == 1:
        emit(found[0], as_json, lambda: _one(found[0]))
        return
    means = _means(found) if layout == VTAB else {}
    emit({"results": found, **means}, as_json, lambda: _many(found, means))


def _measured(
    file: Path,
    data: Path,
    opened: "dict[str, Backbone]",
    *,
    split: str,
    weights: Path | None,
    layout: str | None,
    strict: bool,
    precision: str,
    batch: int | None,
) -> dict[str, Any]:
    """One artifact's score, as JSON; `opened` holds backbones by their digests."""
    from adapters_store import artifact
    from adapters_store.admission import admit
    from adapters_store.backbone import for_manifest
    from training.evaluate import BATCH, counted, logits
    from training.presets import open_split
    from training.report.measures import answered, calibration_error, interval
    from training.trunk import default_device

    content = artifact_bytes(file)
    manifest = artifact.read(content, file.name).manifest
    known = manifest.backbone.digest
    if known not in opened:
        opened[known] = for_manifest(manifest.backbone, weights)
    frozen = opened[known]
    adapter = admit(content, frozen.spec)
    images, skipped = open_split(
        data,
        split,
        manifest.labels,
        manifest.preprocess,
        layout=f"{VTAB}:{manifest.task}" if layout == VTAB else layout,
        seed=manifest.provenance.seed,
        strict=strict,
    )
    left_out(data, skipped)
    scores = logits(
        frozen,
        adapter,
        images.images,
        device=default_device(),
        precision="bf16" if precision == "bf16" else "fp32",
        batch=batch or BATCH,
    )
    found = counted(scores, images.labels, manifest.labels)
    low, high = interval(found.correct, found.images)
    return {
        "task": manifest.task,
        "digest": artifact.digest(content),
        "split": split,
        "precision": precision,
        "images": found.images,
        "skipped": list(skipped),
        "correct": found.correct,
        "accuracy": found.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "calibration_error": calibration_error(
            answered(split, images.images, images.labels, scores)
        ),
        "classes": [asdict(c) for c in found.classes],
    }


def _means(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What VTAB-1k is summed up in; nothing while tasks are missing."""
    from training.errors import ScoresIncompleteError
    from training.vtab import group_means, mean3, mean19

    scores = {one["task"]: one["accuracy"] for one in found}
    try:
        return {"groups": group_means(scores), "mean19": mean19(scores), "mean3": mean3(scores)}
    except ScoresIncompleteError as error:
        return {"means_missing": str(error)}


def _one(found: dict[str, Any]) -> None:
    rows = [
        (c["label"], c["images"], c["correct"], f"{100 * c['correct'] / c['images']:.1f} %")
        for c in found["classes"]
        if c["images"]
    ]
    table(("class", "images", "correct", "accuracy"), rows)
    out.print(
        f"\n{found['task']}: {100 * found['accuracy']:.2f} % of {found['images']} "
        f"{found['split']} images (95 % interval {100 * found['accuracy_low']:.2f} to "
        f"{100 * found['accuracy_high']:.2f} %, calibration error "
        f"{100 * found['calibration_error']:.2f} %)",
        markup=False,
    )


def _many(found: Sequence[dict[str, Any]], means: dict[str, Any]) -> None:
    rows = [
        (
            one["task"],
            one["images"],
            f"{100 * one['accuracy']:.2f} %",
            f"{100 * one['accuracy_low']:.2f} to {100 * one['accuracy_high']:.2f} %",
        )
        for one in found
    ]
    table(("task", "images", "accuracy", "95 % interval"), rows)
    groups = means.get("groups", {})
    lines = [f"{name}: {100 * mean:.2f} %" for name, mean in groups.items()]
    if groups:
        lines.append(f"mean of nineteen tasks: {100 * means['mean19']:.2f} %")
        lines.append(f"mean of three groups: {100 * means['mean3']:.2f} %")
    elif "means_missing" in means:
        lines.append(f"no means: {means['means_missing']}")
    for line in lines:
        out.print(line, markup=False)
