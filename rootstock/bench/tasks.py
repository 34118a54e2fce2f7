"""Throughput and tail of the engine by the number of registered tasks. Knows no HTTP."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adapters_store import plain
from rootstock.bench.adapters import Choice, noise
from rootstock.bench.proof import hold
from rootstock.bench.registered import Library, Registered
from rootstock.bench.setting import Row, Setting, Tell, timing
from rootstock.bench.turns import Spread, quotients, tail, tails_apart, take_turns, times

POPULARITIES: Final = ("uniform", "zipf")
SIZES: Final = (1, 10, 100, 1000, 10_000)
_SLOTS: Final = 64  # as a server has, unless a batch needs more
_CHECKED: Final = 8  # samples
_TAIL: Final = 99.0  # per cent


def shares(tasks: int, popularity: str) -> NDArray[np.float64]:
    """The part of all requests that each task gets: equal, or of rank k by 1/k (true Zipf, s=1)."""
    weights = np.ones(tasks) if popularity == "uniform" else 1.0 / np.arange(1, tasks + 1)
    found: NDArray[np.float64] = weights / weights.sum()
    return found


def measure(
    setting: Setting,
    choice: Choice,
    sizes: Sequence[int],
    popularities: Sequence[str],
    batch: int,
    batches: int,
    rounds: int,
    tell: Tell,
) -> Iterator[Row]:
    """One row a size and popularity.

    The sizes take turns batch by batch: whatever else the machine does in a run falls on all.

    Args:
        setting: where.
        choice: the method of every task.
        sizes: numbers of registered tasks.
        popularities: of POPULARITIES.
        batch: samples in a batch.
        batches: in one run.
        rounds: runs of each size; its tail is over the batches of all of them.
        tell: told what is being done.

    Raises:
        WrongAnswerError: a sample got another answer than the plain path gives.
    """
    setting.tune(batch)
    slots = max(_SLOTS, batch)
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder, ExitStack() as stack:
        tell.doing(f"writing {max(sizes)} artifacts")
        library = Library.make(
            setting, Path(folder), choice.method, dict(choice.options), max(sizes)
        )
        registered: dict[int, Registered] = {}
        for size in sizes:
            tell.doing(f"registering {size} tasks")
            registered[size] = Registered(setting, library, slots)
            stack.callback(registered[size].close)
            registered[size].load(library.digests[:size])
            _check(setting, library, registered[size])
        for popularity in popularities:
            tell.doing(
                f"{popularity}: {rounds} runs of {batches} batches for each of {len(sizes)} sizes"
            )
            loads = {
                str(n): _Load(setting, r, popularity, batch, rounds * batches + 1)
                for n, r in registered.items()
            }
            for load in loads.values():
                load()  # uncounted
            runs = [take_turns(loads, batches) for _ in range(rounds)]
            seconds = {n: [times(run[str(n)]) for run in runs] for n in sizes}
            for size, r in registered.items():
                _check(setting, library, r)
                distinct = loads[str(size)].distinct
                yield _row(setting, choice, r, popularity, batch, distinct, seconds)


class _Load:
    """Batches of tasks that are drawn beforehand; each call runs the next."""

    def __init__(
        self, setting: Setting, registered: Registered, popularity: str, batch: int, count: int
    ) -> None:
        size = len(registered.digests)
        drawn = np.random.default_rng(size).choice(size, (count, batch), p=shares(size, popularity))
        self._registered, self._pixels = registered, noise(setting.backbone.spec, batch)
        self._wanted: list[list[int]] = drawn.tolist()
        self.distinct = round(float(np.mean([len(set(tasks)) for tasks in self._wanted])))

    def __call__(self) -> None:
        """The next batch, as a replica runs it."""
        self._registered.run(self._pixels, self._wanted.pop())


def _row(
    setting: Setting,
    choice: Choice,
    registered: Registered,
    popularity: str,
    batch: int,
    distinct: int,
    seconds: Mapping[int, Sequence[Sequence[float]]],
) -> Row:
    def rates(tasks: int) -> list[float]:
        return [batch * len(run) / sum(run) for run in seconds[tasks]]

    size = len(registered.digests)
    least, ten = (n if n in seconds else min(seconds) for n in (1, 10))
    apart = tails_apart(seconds[size], seconds[ten], _TAIL)
    return setting.row(
        "tasks",
        "mixed",
        choice.name,
        batch=batch,
        distinct=distinct,
        ratio=Spread.of(quotients(rates(size), rates(least))),
        runs=len(seconds[size]),
        batches=len(seconds[size][0]),
        ratio_to=f"{least} tasks",
        tasks=size,
        popularity=popularity,
        p99_ratio=round(apart.median, 4),
        p99_quartiles=[round(q, 4) for q in apart.quartiles],
        p99_ratio_to=f"{ten} tasks",
        p99_s=round(tail(seconds[size], _TAIL), 6),
        p99_of=sum(map(len, seconds[size])),  # batches, of all runs
        registration_s=round(registered.seconds, 3),
        host_bytes=registered.host_bytes,
        **timing(Spread.of([s for run in seconds[size] for s in run]), batch),
    )


def _check(setting: Setting, library: Library, registered: Registered) -> None:
    """Some tasks of all, in one batch, against the plain path."""
    count = len(registered.digests)
    tasks = [i * count // _CHECKED for i in range(_CHECKED)]
    pixels = noise(setting.backbone.spec, _CHECKED, seed=1)
    wanted = [
        plain.logits(setting.backbone, library.adapter(t), pixels[i : i + 1])[0]
        for i, t in enumerate(tasks)
    ]
    got = registered.run(pixels, tasks)
    hold(f"the engine with {count} tasks", got, "the plain path", wanted, setting.dtype)
