"""What is shown while a run goes on: one line of all client processes. Knows no terminal."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from loadtest.outcomes import FAILED, Outcome
from loadtest.statistics import percentiles


class Progress:
    """Adds up ticks; `line` tells what came since the last one."""

    def __init__(self, duration_s: float) -> None:
        self._duration_s = duration_s
        self._began = self._last = 0.0
        self.begun = False
        self._all: Counter[int] = Counter()
        self._clear()

    def _clear(self) -> None:
        self._sent = self._right = self._in_flight = 0
        self._lag_ms = 0.0
        self._latencies: list[float] = []
        self._ticks = 0

    def begin(self) -> None:
        """The first request is about to leave."""
        self.begun = True
        self._began = self._last = time.monotonic()

    def tick(self, said: Mapping[str, Any]) -> None:
        """Of one process."""
        outcomes = {int(outcome): count for outcome, count in said["outcomes"].items()}
        self._all.update(outcomes)
        self._sent += said["sent"]
        self._right += outcomes.get(Outcome.OK, 0)
        self._lag_ms = max(self._lag_ms, said["lag_ms"])
        self._latencies += said["latencies_ms"]
        self._in_flight += said["in_flight"]
        self._ticks += 1

    def line(self, processes: int = 1) -> str:
        """Since the last line, and failures since the beginning."""
        now = time.monotonic()
        passed = max(now - self._last, 1e-9)
        p50, p99 = percentiles(np.array(self._latencies), (50.0, 99.0))
        failed = sum(self._all[outcome] for outcome in FAILED)
        in_flight = self._in_flight * processes / max(self._ticks, 1)
        text = (
            f"{now - self._began:4.0f} of {self._duration_s:g} s  "
            f"sent {self._sent / passed:.0f}/s  right {self._right / passed:.0f}/s  "
            f"p50 {_ms(p50)}  p99 {_ms(p99)} ms  in flight {in_flight:.0f}  failed {failed}"
        )
        if self._all[Outcome.WRONG]:
            text += f"  WRONG {self._all[Outcome.WRONG]}"
        if self._lag_ms > 20:
            text += f"  left {self._lag_ms:.0f} ms late"
        self._last = now
        self._clear()
        return text


def _ms(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}"
