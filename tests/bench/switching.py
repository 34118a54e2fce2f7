"""What Python's switch interval does to a batch, while another thread handles requests.

    python -m tests.bench.switching [--backbone NAME] [--rounds 7] [--json FILE]

Every torch operation gives the interpreter's lock away and wants it back. The rival thread works
for 2 ms of Python at a time, as an event loop does for a request, so often that it is busy for the
given share of the time. Intervals take turns. Told: a batch's time, and how much of its work the
rival got done, both against Python's own interval of 5 ms.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

from adapters_store.threads import wait_passively

wait_passively()

from rootstock.bench.adapters import Choice  # noqa: E402
from rootstock.bench.mixed import Mixture  # noqa: E402
from rootstock.bench.setting import Setting  # noqa: E402

PYTHONS_S = 0.005
INTERVALS_S = (PYTHONS_S, 0.001, 0.0005, 0.0002)
REQUEST_S = 0.002
SHARES = (0.0, 0.3, 0.6)


class Rival:
    """Handles requests on a thread of its own, as far as it is let."""

    def __init__(self, share: float) -> None:
        self._share, self._ending = share, threading.Event()
        self.done = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        if self._share:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._share:
            self._thread.join()

    def _run(self) -> None:
        value = {"label": "cat", "probabilities": [0.1] * 40}
        while not self._ending.is_set():
            until = time.thread_time() + REQUEST_S
            while time.thread_time() < until:
                json.loads(json.dumps(value))
            self.done += 1
            time.sleep(REQUEST_S * (1 / self._share - 1))


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="deit_tiny_patch16_224")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    setting = Setting.open(given.backbone, None, "bf16", "cpu", 0)
    setting.tune(given.batch)
    mixture = Mixture.random(setting, Choice.parse(given.method), given.batch, 8)
    lane = setting.engine.lane()
    placed = [setting.placed(adapter) for adapter in mixture.adapters]
    wanted = [placed[i] for i in mixture.wanted]
    rows: list[dict[str, Any]] = []
    for share in SHARES:
        taken: dict[float, list[float]] = {one: [] for one in INTERVALS_S}
        served: dict[float, list[float]] = {one: [] for one in INTERVALS_S}
        for number in range(given.rounds + 1):
            for interval in INTERVALS_S if number % 2 else INTERVALS_S[::-1]:
                sys.setswitchinterval(interval)
                with Rival(share) as rival:
                    began = time.perf_counter()
                    for _ in range(4):
                        lane(mixture.pixels, wanted)
                    seconds = time.perf_counter() - began
                    handled = rival.done
                if number:
                    taken[interval].append(seconds / 4)
                    served[interval].append(handled / seconds)
        for interval in INTERVALS_S:
            ratios = [b / a for a, b in zip(taken[PYTHONS_S], taken[interval], strict=True)]
            row = {
                "rival_share": share,
                "interval_ms": 1000 * interval,
                "batch_ms": round(1000 * statistics.median(taken[interval]), 1),
                "batch_ratio": round(statistics.median(ratios), 3),
                "rival_per_s": round(statistics.median(served[interval]), 1),
            }
            rows.append(row)
            print(row, flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
