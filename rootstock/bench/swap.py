"""What it takes to bring a task in: by stage, from publish to first answer, and for the others."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from adapters_store import artifact, plain
from adapters_store.admission import admit
from adapters_store.catalog import Catalog
from adapters_store.store import AdapterStore
from rootstock.bench.adapters import Choice, artifacts, noise
from rootstock.bench.proof import hold
from rootstock.bench.registered import HOST_BYTES, slotted
from rootstock.bench.setting import Row, Setting, Tell, timing
from rootstock.bench.stall import stall
from rootstock.bench.turns import Spread, quotients
from serving.loading import Loader
from serving.residency import Residency
from serving.telemetry import Telemetry

STAGES: Final = ("fetch", "validate", "prepare", "check", "slot", "whole load")
FORWARDS: Final = 4  # bare ones of a single image, which a cold answer may take,
GRACE_S: Final = 0.1  # and so much beside
_BASES: Final = 4
_SLOTS: Final = 8


def measure(
    setting: Setting,
    choice: Choice,
    adapters: int,
    batch: int,
    batches: int,
    rounds: int,
    swaps_per_s: float,
    tell: Tell,
) -> Iterator[Row]:
    """A row a stage, one for publish to first answer, one for the stall of other traffic.

    Args:
        setting: where.
        choice: the method.
        adapters: tasks that are brought in, one by one.
        batch: samples in a batch of other traffic.
        batches: in one run of it.
        rounds: runs with and without swapping; tails are over the batches of all of them.
        swaps_per_s: from host memory into a slot, meanwhile.
        tell: told what is being done.

    Raises:
        WrongAnswerError: a first answer is not the plain path's.
    """
    setting.tune(batch)
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        tell.doing(f"bringing {adapters} adapters in, stage by stage")
        seconds, cold, bare = _cold(setting, choice, f"file://{folder}", adapters)
    forward = Spread.of(bare)
    for stage in STAGES:
        yield setting.row(
            "swap",
            "mixed",
            choice.name,
            batch=1,
            distinct=1,
            ratio=Spread.of(quotients(bare, seconds[stage])),
            runs=adapters,
            stage=stage,
            forwards=_forwards(seconds[stage], bare),
            **timing(Spread.of(seconds[stage]), 1),
        )
    over = [c - FORWARDS * b - GRACE_S for c, b in zip(cold, bare, strict=True)]
    yield setting.row(
        "swap",
        "mixed",
        choice.name,
        batch=1,
        distinct=1,
        ratio=Spread.of(quotients(bare, cold)),
        runs=adapters,
        stage="publish to first answer",
        forwards=_forwards(cold, bare),
        over_bar_s=round(Spread.of(over).median, 6),  # above 4 forwards and 100 ms
        **timing(Spread.of(cold), 1),
    )
    yield setting.row(
        "swap",
        "bare",
        "linear",
        batch=1,
        distinct=1,
        ratio=Spread.of([1.0]),
        runs=adapters,
        stage="forward of one image",
        forwards=1.0,
        **timing(forward, 1),
    )
    tell.doing(f"{swaps_per_s:g} swaps a second beside other traffic")
    yield stall(setting, choice, batch, batches, rounds, swaps_per_s)


def _forwards(seconds: Sequence[float], bare: Sequence[float]) -> float:
    return round(Spread.of(quotients(seconds, bare)).median, 3)


def _cold(
    setting: Setting, choice: Choice, uri: str, count: int
) -> tuple[dict[str, list[float]], list[float], list[float]]:
    """Seconds of each stage, of publish to first answer, and of a bare forward beside them."""
    spec, engine = setting.backbone.spec, setting.engine
    bases = [
        setting.maker.make(choice.method, f"base-{i}", i, options=choice.options)
        for i in range(min(_BASES, count))
    ]
    made = list(artifacts(bases, 2 * count + 2))
    store = AdapterStore.open(uri, spec.ref.digest)
    loader = Loader(setting.backbone, engine, store.blob)
    residency = _residency(setting, store)
    head = [setting.placed(setting.maker.make("linear", "bare", 0, effect=False))]
    picture, catalog = noise(spec, 1), Catalog()
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    cold: list[float] = []
    bare: list[float] = []
    try:
        for number in range(count + 1):
            bare.append(_seconds(engine.run, picture, head))
            (_, staged), (task, data) = made[2 * number], made[2 * number + 1]
            began = time.perf_counter()
            store.publish(data, task, by="bench")
            catalog = store.catch_up(catalog).catalog
            digest = next(r.digest for r in catalog.tasks[task].releases)
            facts = residency.get(digest).result()
            (answer,) = engine.run(picture, [slotted(residency, digest)])
            cold.append(time.perf_counter() - began)
            residency.release([digest])
            wanted = plain.logits(setting.backbone, artifact.read(data), picture)
            assert facts.task == task
            hold("a first answer", [answer], "the plain path", list(wanted), setting.dtype)
            for stage, took in _stages(setting, store, loader, residency, staged).items():
                seconds[stage].append(took)
    finally:
        residency.close()
    # The first of each was to warm up.
    return {stage: values[1:] for stage, values in seconds.items()}, cold[1:], bare[1:]


def _stages(
    setting: Setting, store: AdapterStore, loader: Loader, residency: Residency, data: bytes
) -> dict[str, float]:
    """One adapter, stage by stage; then once more as a server does it, whole."""
    manifest = artifact.read(data).manifest
    digest = store.publish(data, manifest.task, by="bench").release.digest
    found, clock = {}, time.perf_counter
    began = clock()
    fetched = store.blob(digest)
    found["fetch"] = clock() - began
    began = clock()
    adapter = admit(fetched, setting.backbone.spec)
    found["validate"] = clock() - began
    began = clock()
    setting.engine.prepare(adapter)
    found["prepare"] = clock() - began
    facts, promise = loader.bring(digest, fetched)
    began = clock()
    loader.prove(facts, promise)
    found["check"] = clock() - began
    began = clock()
    held = residency.get(digest).result()
    found["whole load"] = clock() - began
    began = clock()
    slotted(residency, held.digest)
    found["slot"] = clock() - began
    residency.release([digest])
    return found


def _residency(setting: Setting, store: AdapterStore) -> Residency:
    return Residency(
        setting.backbone,
        setting.engine,
        store.blob,
        Telemetry(task_labels_max=1),
        slots=_SLOTS,
        host_bytes=HOST_BYTES,
    )


def _seconds(run: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - began
