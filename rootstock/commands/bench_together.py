"""`rootstock bench together`: several tasks in one batch, measured against one after another."""

import os
from typing import Annotated, Any

import typer

from rootstock.commands.bench_options import (
    RATIO,
    SPEED,
    AsJson,
    BackboneName,
    Device,
    Dtype,
    Rounds,
    Threads,
    Weights,
    told,
)
from rootstock.console import emit, fail, guarded, table


@guarded
def together(
    backbone: BackboneName = "rootstock_nano",
    weights: Weights = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="alore, lora:rank=4, … or all; alore, lora, karst, fact_tk by default"),
    ] = None,
    tasks: Annotated[int, typer.Option(help="that are trained", min=2, max=64)] = 8,
    batch: Annotated[
        list[int] | None, typer.Option(help="images of each task in a step; 4 and 8", min=1)
    ] = None,
    steps: Annotated[int, typer.Option(help="of every task in a turn", min=1)] = 3,
    dtype: Dtype = "fp32",
    device: Device = "cpu",
    threads: Threads = 0,
    rounds: Rounds = 5,
    as_json: AsJson = False,
) -> None:
    """Training several tasks in mixed batches against training them one after another.

    The same steps on the same random images, by each method's published recipe; the ratio is of
    images a second, to one after another.
    """
    import torch

    from adapters_store import backbone as backbones
    from rootstock.bench.adapters import choices
    from rootstock.bench.together import measure

    if dtype not in ("bf16", "fp32"):
        fail(f"--dtype is bf16 or fp32, not {dtype!r}")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        fail(f"--device {device}: there is no such device here")
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    trained = backbone == backbones.NANO or weights is not None
    frozen = backbones.load(backbone, weights) if trained else backbones.random(backbone)
    try:
        methods = choices(method or (), frozen.spec)
    except ValueError as error:  # it has no place on the backbone
        fail(str(error))
    if any(choice.method == "linear" for choice in methods):
        fail("linear trains no site: its features are computed once, together or not")
    with told() as tell:
        rows = list(
            measure(
                backbone,
                frozen,
                methods,
                tasks,
                batch or [4, 8],
                "bf16" if dtype == "bf16" else "fp32",
                torch.device(device),
                steps,
                rounds,
                tell,
            )
        )

    columns: dict[str, Any] = {
        "system": lambda r: r["system"],
        "method": lambda r: r["method"],
        "tasks": lambda r: r["tasks"],
        "batch": lambda r: r["batch"],
        **RATIO,
        **SPEED,
    }
    emit(
        rows,
        as_json,
        lambda: table(tuple(columns), ([cell(r) for cell in columns.values()] for r in rows)),
    )
