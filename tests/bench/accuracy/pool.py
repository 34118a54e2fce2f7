"""Several processes that work through units, until all is done or time is up. Knows no network."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from statistics import mean
from typing import Final

from tests.bench.accuracy.rows import Plan
from tests.bench.accuracy.units import POINT, Journal, Unit, ready, trials
from tests.bench.accuracy.work import Place, open_shop, perform

_ATTEMPTS: Final = 2  # at a unit that a process died over


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be used."""

    processes: int
    seconds: float  # after which nothing is begun, and what still runs is given up


def work_through(
    todo: Sequence[Unit], plan: Plan, journal: Journal, place: Place, limits: Limits
) -> int:
    """Do the units in their order, each as soon as it can be begun; results come as they come.

    A process that dies takes its pool with it: another one is opened, and each unit that was under
    way is tried once more. How many units failed is returned. No process outlives this.
    """
    try:
        return _work(todo, plan, journal, place, limits)
    finally:
        for process in multiprocessing.active_children():
            process.terminate()


def _work(todo: Sequence[Unit], plan: Plan, journal: Journal, place: Place, limits: Limits) -> int:
    begun, left = time.monotonic(), list(todo)
    failures: Counter[Unit] = Counter()
    running: dict[Future[dict], Unit] = {}
    pool = _pool(limits, place)
    while left or running:
        spent = time.monotonic() - begun
        while len(running) < limits.processes:
            unit = next((u for u in left if ready(u, plan, journal.done)), None)
            if unit is None or spent + _usual(unit, journal) > limits.seconds:
                break
            left.remove(unit)
            found = [] if unit.kind == POINT else trials(unit, plan, journal.done)
            running[pool.submit(perform, unit, plan, found or [])] = unit
        if not running:
            break
        room = None if limits.seconds == float("inf") else max(0.0, limits.seconds - spent)
        ended, _ = wait(running, timeout=room, return_when=FIRST_COMPLETED)
        if not ended:
            break
        for future in ended:
            unit = running.pop(future)
            if (error := future.exception()) is None:
                journal.add(unit, future.result())
                print(f"{time.monotonic() - begun:7.0f} s  {unit}  {future.result()}", flush=True)
            else:
                print(f"{unit}: {type(error).__name__}: {error}", flush=True)
                failures[unit] += 1
        if any(isinstance(f.exception(), BrokenProcessPool) for f in ended):
            again = [*running.values(), *(u for u in failures if failures[u] < _ATTEMPTS)]
            left = [u for u in again if u not in journal.done] + left
            running.clear()
            pool.shutdown(cancel_futures=True)
            pool = _pool(limits, place)
    failed = sum(unit not in journal.done for unit in failures)
    print(f"{len(left) + len(running)} units are left, {failed} failed", flush=True)
    return failed


def _pool(limits: Limits, place: Place) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
    return ProcessPoolExecutor(limits.processes, context, open_shop, (place,))


def _usual(unit: Unit, journal: Journal) -> float:
    """What such a unit has taken so far, in seconds; nothing is known of a first one."""
    times = [
        result["seconds"]
        for other, result in journal.done.items()
        if (other.method, other.kind) == (unit.method, unit.kind)
    ]
    return mean(times) if times else 0.0
