"""`rootstock evaluate`: an artifact and a folder of images in, a score out."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rootstock.commands.train_options import AsJson, Batch, Data, Threads, Weights
from rootstock.commands.train_order import settled_threads
from rootstock.console import artifact_bytes, emit, fail, guarded, out, table


@guarded
def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="an artifact")],
    data: Data,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    weights: Weights = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    batch: Batch = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Measure an artifact on one split of an image folder."""
    if precision not in ("fp32", "bf16"):
        fail(f"--precision is fp32 or bf16, not {precision!r}")
    from adapters_store import artifact
    from adapters_store.admission import admit
    from adapters_store.backbone import for_manifest
    from training import folder
    from training.evaluate import BATCH, counted, logits
    from training.report.measures import answered, calibration_error, interval
    from training.trunk import default_device

    settled_threads(threads)
    content = artifact_bytes(file)
    manifest = artifact.read(content, file.name).manifest
    frozen = for_manifest(manifest.backbone, weights)
    adapter = admit(content, frozen.spec)
    images = folder.read_split(
        data, split, manifest.labels, manifest.preprocess, seed=manifest.provenance.seed
    )
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
    error = calibration_error(answered(split, images.images, images.labels, scores))
    value = {
        "task": manifest.task,
        "digest": artifact.digest(content),
        "split": split,
        "precision": precision,
        "images": found.images,
        "correct": found.correct,
        "accuracy": found.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "calibration_error": error,
        "classes": [asdict(c) for c in found.classes],
    }

    def text() -> None:
        rows = [
            (c.label, c.images, c.correct, f"{100 * c.correct / c.images:.1f} %")
            for c in found.classes
            if c.images
        ]
        table(("class", "images", "correct", "accuracy"), rows)
        out.print(
            f"\n{manifest.task}: {100 * found.accuracy:.2f} % of {found.images} {split} images "
            f"(95 % interval {100 * low:.2f} to {100 * high:.2f} %, calibration error "
            f"{100 * error:.2f} %)",
            markup=False,
        )

    emit(value, as_json, text)
