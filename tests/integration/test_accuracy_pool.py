"""The accuracy table's run with real processes, which are killed. Knows no accuracy."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

CLASSES, IMAGES = 2, 12
PATIENCE = 120  # seconds


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of one pack: noise of two classes, a third of it in each split."""
    rng = np.random.default_rng(0)
    files = [picture(rng) for _ in range(IMAGES)]
    (tmp_path / "packs").mkdir()
    np.savez(
        tmp_path / "packs" / "noise.npz",
        blob=np.frombuffer(b"".join(files), np.uint8),
        off=np.cumsum([0, *map(len, files)]),
        label=np.arange(IMAGES) % CLASSES,
        split=np.arange(IMAGES) // CLASSES % 3,
        names=np.array(["dark", "light"]),
    )
    return tmp_path / "packs"


def picture(rng: np.random.Generator) -> bytes:
    """A PNG."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def begun(data: Path, out: Path) -> subprocess.Popen[str]:
    """A run in one worker, long enough to be met in the middle."""
    command = [sys.executable, "-m", "tests.bench.accuracy", "run", "--backbone", "rootstock_nano"]
    more = ["--methods", "lora", "linear", "--epochs", "60", "--batch", "4", "--points", "1"]
    return subprocess.Popen(
        [*command, *more, "--data", str(data), "--out", str(out)],
        stdout=subprocess.PIPE,
        text=True,
    )


def worker_of(parent: int) -> int:
    """The process that computes, once it is there: it was spawned, as the tracker was not."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for child in children(parent):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        time.sleep(0.05)
    raise AssertionError("no worker came")


def children(parent: int) -> Iterator[int]:
    """Processes whose parent that is."""
    for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
        yield from map(int, tasks.read_text().split())


def gone(pid: int) -> bool:
    """Within the patience of the test."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_worker_that_is_killed_costs_its_unit_one_try_and_the_table_nothing(data, tmp_path):
    run = begun(data, tmp_path / "out")
    os.kill(worker_of(run.pid), signal.SIGKILL)

    said, _ = run.communicate(timeout=PATIENCE)

    assert run.returncode == 0, said
    assert "BrokenProcessPool" in said
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()[1:]
    done = {tuple(json.loads(line)["unit"]) for line in lines}
    assert done == {(m, "noise", "seed", seed) for m in ("lora", "linear") for seed in range(3)}


def test_a_run_that_is_told_to_stop_takes_its_worker_along(data, tmp_path):
    run = begun(data, tmp_path / "out")
    worker = worker_of(run.pid)
    run.terminate()

    run.communicate(timeout=PATIENCE)

    assert run.returncode == 143
    assert gone(worker)
