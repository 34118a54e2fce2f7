"""`rootstock train` and `rootstock evaluate`: an image folder in, an artifact or a score out."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rootstock.console import artifact_bytes, author, emit, fail, guarded, out, table, whole

if TYPE_CHECKING:
    from adapters_store.store import AdapterStore, Published
    from training.loop import Epoch, Watch
    from training.run import TrainedTask

Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="image folder: train/<class>/*, val/…, test/…")
]
Weights = Annotated[
    Path | None, typer.Option(help="safetensors state dict of the backbone, else bundled or hub")
]
Batch = Annotated[int | None, typer.Option(min=1, help="images a step")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0: as many as torch likes")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON value")]


@guarded
def train(
    data: Data,
    task: Annotated[str, typer.Option(help="the name it will be published under")],
    output: Annotated[Path, typer.Option("--out", metavar="FILE", help="where the artifact goes")],
    method: Annotated[str, typer.Option(help="see `rootstock methods`")] = "alore",
    backbone: Annotated[str, typer.Option(help="a timm model name")] = "rootstock_nano",
    weights: Weights = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="an option of the method, or of the recipe"
        ),
    ] = None,
    store: Annotated[str | None, typer.Option(metavar="URI", help="publish it there")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    batch: Batch = None,
    geometry: Annotated[str | None, typer.Option(help="squash or timm")] = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Train an adapter for one task; the last epoch is kept, and held to the law before writing.

    Settings that are not given are as published for the method: 100 epochs and a learning rate to
    match. For a few epochs on a CPU, try `--epochs 10 --set lr=0.01`.
    """
    from adapters_store.artifact import digest
    from training.recipe import compose, parse_settings

    flags = {"epochs": epochs, "seed": seed, "batch": batch, "geometry": geometry}
    given = {key: value for key, value in flags.items() if value is not None}
    chosen = parse_settings([*(settings or ()), *(f"{k}={v}" for k, v in given.items())])
    options, recipe = compose(method, {"precision": _precision(threads), **chosen})
    if output.is_dir():
        fail(f"{output} is a folder, --out names a file")
    output.parent.mkdir(parents=True, exist_ok=True)

    from adapters_store import backbone as backbones
    from training import folder
    from training.run import check_task, train_task

    begun = time.monotonic()
    frozen = backbones.load(backbone, weights)
    check_task(task, method, options, frozen.spec)
    shelf = _shelf(store, frozen.spec.ref.digest)  # before an hour of training
    images = folder.read(data, frozen.spec.preprocess(recipe.geometry), seed=recipe.seed)
    sizes = {name: len(split.labels) for name, split in images.splits.items()}
    _say(
        f"{task}: {len(images.classes)} classes, "
        + ", ".join(f"{n} {name}" for name, n in sizes.items())
        + f"; {method} on {backbone}, {recipe.epochs} epochs"
    )
    with _watched(f"{task} ({method})") as watch:
        made = train_task(images, frozen, task, method, options.model_dump(), recipe, watch=watch)
    with whole(output) as part:
        part.write_bytes(made.data)
    published = None
    if shelf is not None:
        published = shelf.publish(made.data, task, by=author(), why="rootstock train")
    value = {
        "task": task,
        "method": method,
        "file": str(output),
        "digest": digest(made.data),
        "bytes": len(made.data),
        "parameters": made.parameters,
        "metrics": dict(made.adapter.manifest.metrics),
        "law": asdict(made.report),
        "recipe": made.recipe.model_dump(mode="json"),
        "options": dict(made.adapter.manifest.options),
        "images": sizes,
        "seconds": round(time.monotonic() - begun, 2),
        "log": [asdict(row) for row in made.log],
        "published": _published(published),
    }
    emit(value, as_json, lambda: _show(output, made, published))


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
    from training.evaluate import BATCH, score
    from training.trunk import default_device

    _precision(threads)
    content = artifact_bytes(file)
    manifest = artifact.read(content, file.name).manifest
    frozen = for_manifest(manifest.backbone, weights)
    adapter = admit(content, frozen.spec)
    images = folder.read_split(
        data, split, manifest.labels, manifest.preprocess, seed=manifest.provenance.seed
    )
    found = score(
        frozen,
        adapter,
        images,
        device=default_device(),
        precision="bf16" if precision == "bf16" else "fp32",
        batch=batch or BATCH,
    )
    value = {
        "task": manifest.task,
        "digest": artifact.digest(content),
        "split": split,
        "precision": precision,
        "images": found.images,
        "correct": found.correct,
        "accuracy": found.accuracy,
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
            f"\n{manifest.task}: {100 * found.accuracy:.2f} % of {found.images} {split} images",
            markup=False,
        )

    emit(value, as_json, text)


def _precision(threads: int) -> str:
    """What the device is fast in, its threads having been set."""
    import torch

    from training.trunk import default_device, native_precision

    if threads:
        torch.set_num_threads(threads)
    return native_precision(default_device())


def _shelf(uri: str | None, digest: str) -> "AdapterStore | None":
    """The store that will be published to, known to be writable."""
    if uri is None:
        return None
    from adapters_store.store import AdapterStore

    store = AdapterStore.open(uri, digest)
    store.check_writable()
    return store


@contextmanager
def _watched(title: str) -> "Iterator[Watch]":
    """A progress bar on a terminal, a line an epoch elsewhere; always on stderr."""
    from training.loop import Watch

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield Watch(on_epoch=lambda row: _say(_line(row)))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        row = bar.add_task(title, note="")
        yield Watch(
            on_epoch=lambda epoch: bar.update(row, note=_note(epoch)),
            on_step=lambda done, of: bar.update(row, completed=done, total=of),
        )


def _line(row: "Epoch") -> str:
    train = f"train {100 * row.train_accuracy:.1f} %"
    return (
        f"epoch {row.epoch}/{row.epochs}  {_note(row)}  {train}  "
        f"lr {row.lr:.2e}  {row.seconds:.1f} s"
    )


def _note(row: "Epoch") -> str:
    val = "" if row.val_accuracy is None else f"  val {100 * row.val_accuracy:.1f} %"
    return f"loss {row.loss:.4f}{val}"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _published(published: "Published | None") -> dict[str, Any] | None:
    if published is None:
        return None
    return {
        "release": published.release.number,
        "generation": published.generation,
        "created": published.created,
    }


def _show(file: Path, made: "TrainedTask", published: "Published | None") -> None:
    manifest = made.adapter.manifest
    accuracy = ", ".join(f"{name} {100 * v:.2f} %" for name, v in manifest.metrics.items())
    law = f"module {made.report.trained:.1e}, merged {made.report.merged:.1e}"
    out.print(f"accuracy: {accuracy}", markup=False)
    out.print(f"law: {law} relative", markup=False)
    out.print(
        f"wrote {file} ({len(made.data):,} bytes, {made.parameters:,} parameters)",
        markup=False,
    )
    if published is not None:
        verb = "published as" if published.created else "was already"
        out.print(f"{verb} {manifest.task}@{published.release.number}", markup=False)
