"""`rootstock bench train`: speed and memory of training, against full fine-tuning and PEFT."""

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
def train(
    backbone: BackboneName = "rootstock_nano",
    weights: Weights = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="alore, lora:rank=4, … or all; alore and lora by default"),
    ] = None,
    batch: Annotated[int, typer.Option(help="images in a step", min=1)] = 32,
    steps: Annotated[int, typer.Option(help="timed ones in a turn", min=1)] = 4,
    dtype: Dtype = "bf16",
    device: Device = "cpu",
    threads: Threads = 0,
    rounds: Rounds = 9,
    peft: Annotated[bool, typer.Option(help="measure PEFT's LoRA too")] = True,
    as_json: AsJson = False,
) -> None:
    """Training steps by each method, against full fine-tuning by the same loop and against PEFT.

    Random images, each method's published recipe without stochastic depth. LoRA has PEFT's shape,
    one pair of factors for q, k and v. PEFT runs in our loop and in a plain one; the faster counts.
    Peak memory is measured apart, each arm in its own process: on a CPU what comes on top of the
    loaded backbone, on a GPU all that is allocated.
    """
    import torch

    from rootstock.bench.adapters import choices
    from rootstock.bench.opening import opened
    from rootstock.bench.train import measure
    from rootstock.bench.trainees import Course

    if dtype not in ("bf16", "fp32"):
        fail(f"--dtype is bf16 or fp32, not {dtype!r}")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        fail(f"--device {device}: there is no such device here")
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    frozen = opened(backbone, weights)
    try:
        methods = choices(method or ("alore", "lora"), frozen.spec)
    except ValueError as error:  # it has no place on the backbone
        fail(str(error))
    course = Course(
        backbone=frozen,
        device=torch.device(device),
        precision="bf16" if dtype == "bf16" else "fp32",
        batch=batch,
        steps=steps,
    )
    with told() as tell:
        rows = list(measure(backbone, weights, course, methods, rounds, peft=peft, tell=tell))
    columns: dict[str, Any] = {
        "system": lambda r: r["system"],
        "method": lambda r: r["method"],
        "batch": lambda r: r["batch"],
        **RATIO,
        "against PEFT": lambda r: f"{r['against_peft']:.3f}" if "against_peft" in r else "–",
        "peak MB": lambda r: f"{r['peak_bytes'] / 1e6:.0f}",
        "of full": lambda r: f"{r['memory_ratio']:.3f}",
        **SPEED,
    }
    emit(
        rows,
        as_json,
        lambda: table(tuple(columns), ([cell(r) for cell in columns.values()] for r in rows)),
    )
