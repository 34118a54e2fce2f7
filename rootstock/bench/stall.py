"""What other traffic feels of swaps: its batches, with and without a thread that fills slots."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from adapters_store import plain
from rootstock.bench.adapters import Choice, noise
from rootstock.bench.proof import Logits, hold
from rootstock.bench.registered import Library, Registered, slotted
from rootstock.bench.setting import Row, Setting, timing
from rootstock.bench.turns import Spread, Turn, quotients, tail, tails_apart, take_turns

_SPARE: Final = 8  # slots beside those of the traffic, for whoever is swapped in
_OTHERS: Final = 32  # tasks that are swapped in, in turn: each finds its slot taken
_CHECKED: Final = 4  # samples
_TAIL: Final = 99.0  # per cent

Run = tuple[list[float], Logits]  # seconds of each batch, answers of the last


def stall(
    setting: Setting, choice: Choice, batch: int, batches: int, rounds: int, swaps_per_s: float
) -> Row:
    """The tail of batches of resident tasks beside so many swaps a second, against without.

    Raises:
        WrongAnswerError: swapping changed somebody's answer.
    """
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        library = Library.make(
            setting, Path(folder), choice.method, dict(choice.options), batch + _OTHERS
        )
        registered = Registered(setting, library, batch + _SPARE)
        registered.load(library.digests)
        first = [library.adapter(i) for i in range(min(batch, _CHECKED))]
    pixels, tasks = noise(setting.backbone.spec, batch), list(range(batch))
    rates: list[float] = []

    def alone() -> Run:
        seconds, answers = [], list[np.ndarray]()
        for _ in range(batches):
            began = time.perf_counter()
            answers = registered.run(pixels, tasks)
            seconds.append(time.perf_counter() - began)
        return seconds, answers

    def beside() -> Run:
        with _swapping(registered, range(batch, batch + _OTHERS), swaps_per_s, rates):
            return alone()

    wanted = [
        plain.logits(setting.backbone, adapter, pixels[i : i + 1])[0]
        for i, adapter in enumerate(first)
    ]
    try:
        alone()  # uncounted: slots fill
        turns = take_turns({"alone": alone, "beside": beside}, rounds)
    finally:
        registered.close()
    for name, mine in turns.items():
        for turn in mine:
            got = turn.result[1][: len(wanted)]
            hold(f"traffic ({name})", got, "the plain path", wanted, setting.dtype)
    return _row(setting, choice, batch, turns, swaps_per_s, rates)


def _row(
    setting: Setting,
    choice: Choice,
    batch: int,
    turns: dict[str, list[Turn[Run]]],
    swaps_per_s: float,
    rates: list[float],
) -> Row:
    seconds = {name: [t.result[0] for t in mine] for name, mine in turns.items()}
    totals = {name: [sum(s) for s in runs] for name, runs in seconds.items()}
    apart = tails_apart(seconds["beside"], seconds["alone"], _TAIL)
    return setting.row(
        "swap",
        "mixed",
        choice.name,
        batch=batch,
        distinct=batch,
        ratio=Spread.of(quotients(totals["alone"], totals["beside"])),
        runs=len(rates),
        stage=f"other traffic beside {swaps_per_s:g} swaps a second",
        swaps_per_s=round(float(np.median(rates)), 1),
        p99_ratio=round(apart.median, 4),
        p99_quartiles=[round(q, 4) for q in apart.quartiles],
        p99_s=round(tail(seconds["beside"], _TAIL), 6),
        p99_alone_s=round(tail(seconds["alone"], _TAIL), 6),
        p99_of=sum(map(len, seconds["beside"])),  # batches, of all runs
        **timing(Spread.of([s for run in seconds["beside"] for s in run]), batch),
    )


@contextmanager
def _swapping(
    registered: Registered, tasks: range, per_s: float, rates: list[float]
) -> Iterator[None]:
    """While inside, another thread puts these tasks into slots in turn; its rate is noted.

    Raises:
        Exception: whatever kept it from doing so.
    """
    done, failed = threading.Event(), list[Exception]()

    def run() -> None:
        began, swaps = time.perf_counter(), 0
        try:
            while not done.wait(max(0.0, began + swaps / per_s - time.perf_counter())):
                digest = registered.digests[tasks[swaps % len(tasks)]]
                held = registered.residency.get(digest).result()
                slotted(registered.residency, held.digest)
                registered.residency.release([digest])
                swaps += 1
        except Exception as error:  # noqa: BLE001 (told to whoever waits)
            failed.append(error)
        rates.append(swaps / (time.perf_counter() - began))

    thread = threading.Thread(target=run, name="rootstock-bench-swap")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failed:
        raise failed[0]
