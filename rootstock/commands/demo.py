"""`rootstock demo`: train, publish, serve, predict, swap a release under load. Offline."""

import shutil
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from rootstock.console import emit, fail, guarded, out, table

if TYPE_CHECKING:
    from adapters_store.backbone import Backbone
    from rootstock.demo.scans import Scans
    from rootstock.demo.story import Row, Swap
    from training.run import TrainedTask


@guarded
def demo(
    port: Annotated[int, typer.Option(help="where the server listens", min=1, max=65535)] = 8000,
    keep: Annotated[
        Path | None, typer.Option(help="folder that keeps the artifacts, the store and some scans")
    ] = None,
    ingress: Annotated[str, typer.Option(help="haproxy or python")] = "haproxy",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON value")] = False,
) -> None:
    """Train three tasks, publish them, serve them, and swap one while requests flow.

    On a terminal the server stays until Ctrl-C; elsewhere the command ends by itself.
    """
    if ingress not in ("haproxy", "python"):
        fail(f"--ingress is haproxy or python, not {ingress!r}")
    folder = keep or Path(tempfile.mkdtemp(prefix="rootstock-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _demo(folder.resolve(), port, ingress, as_json=as_json)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _demo(folder: Path, port: int, ingress: str, *, as_json: bool) -> None:
    from adapters_store import backbone as backbones
    from rootstock.demo import scans as digits
    from rootstock.demo import story
    from serving.config import Settings
    from serving.launch import check_address, run

    def say(text: str) -> None:
        if not as_json:
            out.print(text, markup=False)

    store = f"file://{folder}/store"
    settings = Settings(store=store, port=port, ingress=ingress)
    check_address(settings)  # before a minute of training

    backbone, scans = backbones.load(), digits.load()
    trained, second, took = _train(backbone, scans, quiet=as_json)
    for task in trained.values():
        (folder / f"{task.adapter.manifest.task}.safetensors").write_bytes(task.data)
        story.publish(store, backbone, task)
    say(f"\n{len(trained)} tasks trained in {took:.0f} s and published; starting Ray Serve …")

    with run(settings) as server:
        rows = story.classify(server.url, scans, trained)
        swap = story.swap(server.url, scans, digits.SECOND, second.data)
        value = {"rows": [asdict(r) for r in rows], "swap": asdict(swap), "training_s": took}
        emit(value, as_json, lambda: _show(rows, swap))
        _check(rows, swap)
        if sys.stdin.isatty() and sys.stdout.isatty() and not as_json:
            sample = folder / "scan.png"
            sample.write_bytes(scans.files[digits.TEST[0]])
            _invite(server.url, sample)
            with suppress(KeyboardInterrupt):
                server.wait()
            out.print("\nstopping …")


def _train(
    backbone: "Backbone", scans: "Scans", *, quiet: bool
) -> tuple[dict[str, "TrainedTask"], "TrainedTask", float]:
    """All three tasks, a second release of one, and the seconds that the three took."""
    from rootstock.demo import scans as digits
    from rootstock.demo import story
    from training.loop import Epoch, Watch

    live = out.is_terminal and not quiet
    columns = (TextColumn("{task.description:<18}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), console=out, disable=not live) as bar:

        def train(question: digits.Question, name: str) -> "TrainedTask":
            method = question.method
            row = bar.add_task(f"{name} ({method})", note="")

            def on_step(done: int, of: int) -> None:
                bar.update(row, completed=done, total=of)

            def on_epoch(epoch: Epoch) -> None:
                note = f"loss {epoch.loss:.3f}  val {epoch.val_accuracy:.3f}"
                bar.update(row, note=note)
                if not live and not quiet and epoch.epoch == epoch.epochs:
                    out.print(f"trained {name} with {method}: {epoch.epochs} epochs, {note}")

            watch = Watch(on_epoch=on_epoch, on_step=on_step)
            return story.train(question, scans, backbone, watch)

        began = time.monotonic()
        trained = {q.task: train(q, q.task) for q in digits.QUESTIONS}
        took = time.monotonic() - began
        second = train(digits.SECOND, f"{digits.SECOND.task}@2")
    return trained, second, took


def _show(rows: "list[Row]", swap: "Swap") -> None:
    """The table, and the story of the swap."""
    out.print(f"\n{sum(r.answered for r in rows)} held-out scans, classified over HTTP:\n")
    table(
        ("task", "method", "parameters", "bytes", "accuracy", "p50", "p99", "path"),
        (
            (
                r.task,
                r.method,
                f"{r.parameters:,}",
                f"{r.bytes:,}",
                f"{100 * r.accuracy:.1f} %",
                f"{1000 * r.p50_s:.1f} ms",
                f"{1000 * r.p99_s:.1f} ms",
                r.path,
            )
            for r in rows
        ),
    )
    out.print(f"\na second release of {swap.task!r}, published while requests flow:\n")
    answers = ", ".join(
        f"{n} by {swap.task}@{r} ({100 * swap.accuracy[r]:.1f} % right)"
        for r, n in swap.by_release.items()
    )
    for name, what in (
        ("requests sent", f"{swap.sent}"),
        ("failed", f"{swap.failed}"),
        ("answers", answers),
        ("publish → answer", f"{1000 * swap.first_answer_s:.0f} ms until the new one answered"),
        ("stale", f"{swap.stale} answers by the old one to requests sent after publish returned"),
    ):
        out.print(f"  {name:<17} {what}", markup=False)


def _check(rows: "list[Row]", swap: "Swap") -> None:
    """The demonstration fails loudly when it did not show what it is for."""
    failed = sum(r.failed for r in rows) + swap.failed
    if failed:
        fail(f"{failed} requests failed")
    if len(swap.by_release) < 2:
        fail("the second release never answered")


def _invite(url: str, sample: Path) -> None:
    out.print(f"\nstill serving; API docs: {url}/docs   try:\n", markup=False)
    for line in (
        f"curl --data-binary @{sample} -H 'Content-Type: image/png' {url}/v1/tasks/digits:predict",
        f"curl {url}/v1/tasks",
        f"rootstock predict --url {url} --task parity {sample}",
    ):
        out.print(f"  {line}", markup=False)
    out.print("\nCtrl-C stops everything.")
