"""`rootstock train`: images in, an artifact and a report out."""

import time
from pathlib import Path
from typing import Annotated

import typer

from rootstock.commands import train_report as reports
from rootstock.commands.train_options import AsJson, Batch, Data, Layout, Strict, Threads, Weights
from rootstock.commands.train_run import done
from rootstock.commands.train_wanted import Wanted
from rootstock.console import emit, guarded


@guarded
def train(
    data: Data,
    output: Annotated[Path, typer.Option("--out", metavar="FILE", help="where the artifact goes")],
    task: Annotated[str | None, typer.Option(help="the name it will be published under")] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="several at once: DIR/<task>/… each, FILE is then a folder"
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="see `rootstock methods`; or full")] = "alore",
    backbone: Annotated[str, typer.Option(help="a timm model name")] = "rootstock_nano",
    weights: Weights = None,
    layout: Layout = None,
    strict: Strict = False,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="an option of the method, or of the recipe"
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2,…", help="choose on val, then train on train and val; KEY: as papers"
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="final runs, on train and val; the first is kept")
    ] = None,
    store: Annotated[str | None, typer.Option(metavar="URI", help="publish it there")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    batch: Batch = None,
    geometry: Annotated[str | None, typer.Option(help="squash or timm")] = None,
    threads: Threads = 0,
    workers: Annotated[
        int, typer.Option(min=1, help="points and seeds at a time, as Ray tasks")
    ] = 1,
    data_parallel: Annotated[
        int, typer.Option(min=1, metavar="N", help="processes that share every batch")
    ] = 1,
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="of a Ray that runs, else one of our own")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where a run broke off")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="else FILE, .report for .safetensors")
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="only the artifact")] = False,
    as_json: AsJson = False,
) -> None:
    """Train an adapter for one task; the last epoch is kept, and held to the law before writing.

    Settings that are not given are as published for the method: 100 epochs and a learning rate to
    match. For a few epochs on a CPU, try `--epochs 10 --set lr=0.01`.
    """
    from training.recipe import parse_settings

    flags = {"epochs": epochs, "seed": seed, "batch": batch, "geometry": geometry}
    given = {key: value for key, value in flags.items() if value is not None}
    wanted = Wanted(
        data=data,
        output=output,
        task=task,
        tasks=tasks,
        method=method,
        backbone=backbone,
        weights=weights,
        layout=layout,
        strict=strict,
        settings=parse_settings([*(settings or ()), *(f"{k}={v}" for k, v in given.items())]),
        sweep=sweep or (),
        seeds=seeds,
        store=store,
        threads=threads,
        workers=workers,
        data_parallel=data_parallel,
        ray_address=ray_address,
        resume=resume,
        report=report,
        no_report=no_report,
        begun=time.time(),
    )
    wanted.refuse_mixtures()
    endings = done(wanted)
    values = [reports.value(ended, wanted.begun) for ended in endings]

    def text() -> None:
        for ended in endings:
            reports.show(ended)

    emit(values[0] if tasks is None else values, as_json, text)
