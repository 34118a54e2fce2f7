"""`rootstock bench`: measurements that anyone can repeat. Ratios of arms that take turns."""

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from rootstock.commands import bench_engine, bench_together, bench_train
from rootstock.console import emit, fail, guarded, out, table

app = typer.Typer(help="Measure: arms take turns, medians of ratios.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Measure: arms take turns, medians of ratios."""


@app.command("e2e")
@guarded
def e2e(
    backbone: Annotated[str, typer.Option(help="timm name, or the bundled one")] = "rootstock_nano",
    weights: Annotated[Path | None, typer.Option(help="its weights, else random ones")] = None,
    images: Annotated[
        Path | None, typer.Option(help="folder of pictures to send; else generated JPEGs")
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="bf16 or fp32; both by default")] = None,
    tasks: Annotated[int, typer.Option(help="distinct tasks, all asked for in turn", min=1)] = 8,
    clients: Annotated[int, typer.Option(help="requests in flight", min=1)] = 32,
    rounds: Annotated[int, typer.Option(help="turns of each arm", min=3)] = 7,
    seconds: Annotated[float, typer.Option(help="of each turn", min=0.5)] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON value")] = False,
) -> None:
    """HTTP through HAProxy and through the Python proxy, against the same work in process.

    Every arm decodes the same pictures and computes them by the same engine settings; the ratio
    is to the arm in process. The client shares the machine's cores with the server.
    """
    from rootstock.bench.end_to_end import measure

    wanted = dtype or ["bf16", "fp32"]
    if unknown := sorted(set(wanted) - {"bf16", "fp32"}):
        fail(f"--dtype is bf16 or fp32, not {unknown[0]!r}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        for kind in wanted:
            rows += measure(
                Path(folder), backbone, weights, images, kind, tasks, clients, rounds, seconds
            )

    def text() -> None:
        table(
            ("backbone", "dtype", "threads", "system", "images/s", "ratio", "quartiles"),
            (
                (
                    r["backbone"],
                    r["dtype"],
                    r["threads"],
                    r["system"],
                    f"{statistics.median(r['images_per_s']):.1f}",
                    f"{r['ratio']:.3f}",
                    "{:.3f} … {:.3f}".format(*r["quartiles"]),
                )
                for r in rows
            ),
        )
        out.print(f"\n{rounds} turns of {seconds:g} s an arm, {clients} requests in flight")

    emit(rows, as_json, text)


@app.command("learn")
@guarded
def learn(
    data: Annotated[
        Path | None, typer.Option(help="image folder; else scikit-learn's scans of digits")
    ] = None,
    backbone: Annotated[str, typer.Option(help="timm name, or the bundled one")] = "rootstock_nano",
    weights: Annotated[Path | None, typer.Option(help="its weights, else bundled or hub")] = None,
    method: Annotated[list[str] | None, typer.Option(help="all that fit by default")] = None,
    epochs: Annotated[int, typer.Option(help="of every method but the head alone", min=1)] = 6,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON value")] = False,
) -> None:
    """Whether every method learns: one task, the same budget, accuracy on val beside a linear head.

    Each method runs once by its quick recipe; nothing is searched, and test images are not read.
    """
    from adapters_store import backbone as backbones
    from adapters_store.methods.table import METHODS, fits, parse_options
    from rootstock.bench.learning import measure, scans
    from training import folder

    frozen = backbones.load(backbone, weights)
    chosen = method or [n for n in METHODS if fits(n, parse_options(n, {}), frozen.spec)]
    images = scans(frozen) if data is None else folder.read(data, frozen.spec.preprocess())
    rows = []
    for row in measure(frozen, images, chosen, epochs, seed):
        rows.append(row)
        if not as_json:
            val = "–" if row["val"] is None else f"{100 * row['val']:.1f} % of val"
            out.print(f"{row['method']:<11} {val}", markup=False)

    def text() -> None:
        out.print("")
        columns = ("method", "parameters", "bytes", "epochs", "lr", "train %", "val %", "seconds")
        table(
            columns,
            (
                (
                    r["method"],
                    f"{r['parameters']:,}",
                    f"{r['artifact_bytes']:,}",
                    r["epochs"],
                    f"{r['lr']:g}",
                    f"{100 * r['train']:.1f}",
                    "–" if r["val"] is None else f"{100 * r['val']:.1f}",
                    f"{r['seconds']:.0f}",
                )
                for r in rows
            ),
        )

    emit(rows, as_json, text)


app.command("mixed")(bench_engine.mixed)
app.command("tasks")(bench_engine.tasks)
app.command("swap")(bench_engine.swap)
app.command("merge")(bench_engine.merge)
app.command("memory")(bench_engine.memory)
app.command("together")(bench_together.together)
app.command("train")(bench_train.train)
