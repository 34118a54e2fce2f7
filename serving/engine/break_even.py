"""Measuring what merging saves on this device. Knows the engine; no traffic and no decision."""

import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from adapters_store.adapter import Adapter
from serving.engine.engine import Engine
from serving.engine.merged import Folded
from serving.engine.prepared import Prepared
from serving.engine.stand_in import stand_in
from serving.gain import Gain

_RUNS: Final = 7


def measure(
    engine: Engine, batch_max: int, adapter: Adapter | None = None, limit_s: float = 2.0
) -> Gain:
    """Forwards of one task, mixed and merged in turns, by batch size; blocking.

    What merging saves is a small difference of two large numbers. So each pair is compared for
    itself, and what counts is what all pairs but one saved at least: better to miss a gain than to
    see one in noise.

    Args:
        engine: idle.
        batch_max: sizes are doubled up to it.
        adapter: whose operators are run; without one, fresh ones of a usual method.
        limit_s: after the smallest size, only sizes that should fit in what is left of it.
    """
    adapter = adapter or stand_in(engine.spec)
    mixed, merged = engine.place(engine.prepare(adapter)), engine.fold(adapter)
    curves: tuple[list[tuple[int, float]], list[tuple[int, float]]] = ([], [])
    began, size = time.perf_counter(), 1
    while True:
        pixels = np.zeros((size, 3, *engine.spec.input_size), dtype=np.uint8)
        one, other = [mixed] * size, [merged] * size
        _seconds(engine, pixels, one)
        _seconds(engine, pixels, other)
        pairs = [
            (_seconds(engine, pixels, one), _seconds(engine, pixels, other)) for _ in range(_RUNS)
        ]
        saved = sorted(a - b for a, b in pairs)[1]
        cost = min(a for a, _ in pairs)  # whatever else runs here can only add to a time
        curves[0].append((size, cost))
        curves[1].append((size, max(cost - saved, 0.0)))
        following = min(2 * size, batch_max)
        expected = 2 * (_RUNS + 1) * cost * following / size
        if size >= batch_max or time.perf_counter() - began + expected > limit_s:
            return Gain(mixed=tuple(curves[0]), merged=tuple(curves[1]))
        size = following


def _seconds(engine: Engine, pixels: np.ndarray, how: Sequence[Prepared | Folded]) -> float:
    began = time.perf_counter()
    engine.run(pixels, how)
    return time.perf_counter() - began
