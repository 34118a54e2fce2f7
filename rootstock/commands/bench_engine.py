"""`rootstock bench mixed|tasks|swap|merge|memory`: the engine, measured without HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from rootstock.commands.bench_options import (
    BATCH,
    RATIO,
    SPEED,
    TAIL,
    TAIL_BATCH,
    AsJson,
    BackboneName,
    Batch,
    Compiled,
    Device,
    Dtype,
    OneMethod,
    Rounds,
    TailBatch,
    Threads,
    Weights,
    chosen,
    finish,
    method_of,
    of_these,
    opened,
    proven,
    system_of,
    told,
)
from rootstock.console import artifact_bytes, emit, guarded, out, table


@guarded
def mixed(
    backbone: BackboneName = "rootstock_nano",
    weights: Weights = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="alore, lora:rank=4, … or all; alore, lora, karst, fact_tk by default"),
    ] = None,
    system: Annotated[
        list[str] | None, typer.Option(help="mixed, peft, swap, full; all by default")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="samples; 32, or 16 of a large backbone", min=1)
    ] = None,
    distinct: Annotated[
        list[int] | None, typer.Option(help="tasks in a batch; all, and one, by default", min=1)
    ] = None,
    dtype: Dtype = "bf16",
    device: Device = "cpu",
    threads: Threads = 0,
    rounds: Rounds = 21,
    compiled: Compiled = False,
    busy: Annotated[
        bool, typer.Option("--busy", help="another process keeps one core busy meanwhile")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Batches of many tasks against the bare backbone, PEFT, swapped weights and full models.

    The bare reference is the fastest of timm's eager default, timm compiled (if asked for) and our
    engine in slot 0, each with the whole batch and with chunks of 8. LoRA is measured in PEFT's
    shape, one pair of factors for q, k and v. PEFT and full models run where all samples want
    different tasks. No arm that answers wrongly gets a row.
    """
    from rootstock.bench.mixed import SYSTEMS, measure
    from rootstock.bench.rivals import load_peft
    from rootstock.bench.setting import one_core_busy

    systems = of_these(system, SYSTEMS, "--system")
    if system and "peft" in system:
        load_peft()  # asked for by name, it is not left out silently
    setting = opened(backbone, weights, dtype, device, threads)
    methods = chosen(method or (), setting)
    with told() as tell, one_core_busy(busy):
        rows = measure(
            setting,
            methods,
            batch or [setting.batch],
            distinct or [0, 1],
            systems,
            rounds,
            compiled=compiled,
            busy=busy,
            tell=tell,
        )
        found, wrong = proven(rows)

    columns = {"system": system_of, "method": method_of, **BATCH, **RATIO, **SPEED}
    finish(found, wrong, as_json, columns)


@guarded
def tasks(
    backbone: BackboneName = "rootstock_nano",
    weights: Weights = None,
    method: OneMethod = "alore",
    count: Annotated[
        list[int] | None,
        typer.Option("--tasks", help="registered ones; 1, 10, 100, 1000, 10000 by default", min=1),
    ] = None,
    popularity: Annotated[
        list[str] | None, typer.Option(help="uniform or zipf; both by default")
    ] = None,
    batch: TailBatch = 0,
    batches: Annotated[int, typer.Option(help="in one run", min=1)] = 40,
    dtype: Dtype = "bf16",
    device: Device = "cpu",
    threads: Threads = 0,
    rounds: Rounds = 7,
    as_json: AsJson = False,
) -> None:
    """Throughput and p99 by the number of registered tasks; the same load for each.

    All tasks are in host memory, their effect checks left out; a batch takes them into slots as a
    replica does. Popularity zipf is the true one: rank k gets a share that goes as 1/k. Throughput
    is against 1 task, run by run; p99, over the batches of all runs, against 10 tasks, its
    quartiles by drawing the runs anew.
    """
    from rootstock.bench.tasks import POPULARITIES, SIZES, measure

    popularities = of_these(popularity, POPULARITIES, "--popularity")
    setting = opened(backbone, weights, dtype, device, threads)
    (choice,) = chosen([method], setting)
    with told() as tell:
        sizes = sorted(set(count or SIZES))
        size = batch or TAIL_BATCH
        found, wrong = proven(
            measure(setting, choice, sizes, popularities, size, batches, rounds, tell)
        )

    columns = {
        "tasks": lambda r: f"{r['tasks']:,}",
        "popularity": lambda r: r["popularity"],
        **BATCH,
        **RATIO,
        "p99 ms": lambda r: f"{1e3 * r['p99_s']:.1f}",
        **TAIL,
        "registered in s": lambda r: f"{r['registration_s']:.1f}",
        **SPEED,
    }
    finish(found, wrong, as_json, columns)


@guarded
def swap(
    backbone: BackboneName = "rootstock_nano",
    weights: Weights = None,
    method: OneMethod = "alore",
    adapters: Annotated[int, typer.Option(help="brought in, one by one", min=1)] = 24,
    batch: TailBatch = 0,
    batches: Annotated[int, typer.Option(help="of other traffic in one run", min=1)] = 40,
    per_second: Annotated[
        float, typer.Option("--swaps", help="host → slot a second beside it", min=0.1)
    ] = 50.0,
    dtype: Dtype = "bf16",
    device: Device = "cpu",
    threads: Threads = 0,
    rounds: Rounds = 7,
    as_json: AsJson = False,
) -> None:
    """A task on its way in: each stage, publish to first answer, and what others feel of it.

    Times are also given in bare forwards of a single image on the same engine, measured beside.
    """
    from rootstock.bench.swap import measure

    setting = opened(backbone, weights, dtype, device, threads)
    (choice,) = chosen([method], setting)
    with told() as tell:
        size = batch or TAIL_BATCH
        found, wrong = proven(
            measure(setting, choice, adapters, size, batches, rounds, per_second, tell)
        )

    columns = {
        "stage": lambda r: r["stage"],
        "ms": lambda r: f"{1e3 * r['seconds']:.2f}",
        "quartiles": lambda r: " … ".join(f"{1e3 * q:.2f}" for q in r["seconds_quartiles"]),
        "forwards": lambda r: f"{r['forwards']:.2f}" if "forwards" in r else "–",
        **TAIL,
    }

    def summary() -> None:
        cold = next(r for r in found if "over_bar_s" in r)
        ahead = "over" if cold["over_bar_s"] > 0 else "under"
        out.print(
            f"\npublish to first answer: {1e3 * abs(cold['over_bar_s']):.1f} ms {ahead} "
            "4 forwards + 100 ms"
        )
        beside = next(r for r in found if "p99_ratio" in r)
        out.print(f"swaps a second, in fact: {beside['swaps_per_s']:g}")

    finish(found, wrong, as_json, columns, summary)


@guarded
def merge(
    backbone: BackboneName = "rootstock_nano",
    weights: Weights = None,
    method: OneMethod = "alore",
    own: Annotated[
        Path | None, typer.Option("--adapter", help="an artifact to fold; else a random one")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="folder of real pictures for parity; else noise")
    ] = None,
    number: Annotated[int, typer.Option("--n", help="pictures for parity", min=1)] = 256,
    batch: Batch = 0,
    dtype: Dtype = "bf16",
    device: Device = "cpu",
    threads: Threads = 0,
    rounds: Rounds = 21,
    compiled: Compiled = False,
    as_json: AsJson = False,
) -> None:
    """The merged lane: time to fold, agreement with the mixed lane, speed, and when it pays.

    Break-even is the least number of samples of one task in a batch of many from which on running
    them through merged weights is faster than leaving them in the mixed batch. With --adapter and
    --images, merged and mixed must give 99.5 % of the pictures the same label.
    """
    from adapters_store.admission import admit
    from rootstock.bench.merge import measure

    setting = opened(backbone, weights, dtype, device, threads)
    (choice,) = chosen([method], setting)
    adapter = None if own is None else admit(artifact_bytes(own), setting.backbone.spec)
    with told() as tell:
        size = batch or setting.batch
        found, wrong = proven(
            measure(
                setting, choice, size, rounds, number, images, adapter, compiled=compiled, tell=tell
            )
        )

    columns = {
        "stage": lambda r: r["stage"],
        "system": lambda r: r["system"],
        "samples": lambda r: r.get("samples", r["batch"]),
        **RATIO,
        "ms": lambda r: f"{1e3 * r['seconds']:.1f}",
    }

    def summary() -> None:
        fold, last = found[0], found[-1]
        out.print(
            f"\n{fold['bytes'] / 1e6:.1f} MB of own weights; merged against mixed on "
            f"{fold['images']} pictures: top-1 {100 * fold['top1_agreement']:.2f} %, largest "
            f"difference {fold['largest_relative_difference']:g} of the largest logit"
        )
        pays = last["break_even"]
        out.print(
            "merging never pays within a batch"
            if pays is None
            else f"merging pays from {pays} of {last['batch']} samples on"
        )

    finish(found, wrong, as_json, columns, summary)


@guarded
def memory(
    backbone: BackboneName = "rootstock_nano",
    weights: Weights = None,
    method: OneMethod = "alore",
    count: Annotated[int, typer.Option("--tasks", help="held while weighing", min=1)] = 1000,
    dtype: Dtype = "bf16",
    device: Device = "cpu",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Bytes of a task: its artifact, in host memory, in a slot; against a full model each.

    Host memory is given as the engine counts it, and as this process grew, which is what counts.
    """
    from rootstock.bench.memory import measure

    setting = opened(backbone, weights, dtype, device, threads)
    (choice,) = chosen([method], setting)
    with told() as tell:
        found, _ = proven(measure(setting, choice, count, tell))

    def text() -> None:
        ours, full = found
        table(
            ("bytes of one task", "number", "of its artifact"),
            [
                (name, f"{value:,}", f"{value / ours['artifact_bytes']:.2f}")
                for name, value in (
                    ("artifact", ours["artifact_bytes"]),
                    ("host memory, counted", ours["host_bytes"]),
                    ("host memory, as the process grew", ours["resident_bytes"]),
                    ("the same, tidied", ours["resident_tidied_bytes"]),
                    ("slot", ours["slot_bytes"]),
                    ("a full model instead", full["host_bytes"]),
                )
            ],
        )
        out.print(f"\nover {count:,} tasks, held within {ours['registration_s']:.1f} s")

    emit(found, as_json, text)
