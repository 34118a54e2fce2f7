"""Training in Ray's processes gives what one process gives; Ray is started as a user's is."""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from training.errors import DivergedError, WorkersFailedError
from training.launcher import ENVIRONMENT, _ours, _share


def test_a_gpu_is_shared_out_evenly():
    assert _share(2, 0) == 0
    assert _share(1, 1) == 1
    assert _share(4, 1) == 0.25
    assert _share(4, 3) == 0.5
    assert _share(2, 8) == 1


def test_an_error_of_ours_comes_out_of_rays_as_it_went_in():
    inner = DivergedError("lora", 3)
    task = Exception("ray")
    task.cause = inner
    group = RuntimeError("group")
    group.worker_failures = {1: Exception("other"), 0: task}

    assert _ours(task) is inner
    assert _ours(group) is inner
    assert isinstance(_ours(Exception("lost\nwhy it was")), WorkersFailedError)
    assert "why it was" in str(_ours(Exception("lost\nwhy it was")))


def test_nothing_is_told_to_anybody_and_nobody_may_join():
    assert ENVIRONMENT["RAY_USAGE_STATS_ENABLED"] == "0"
    assert ENVIRONMENT["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


@pytest.fixture
def short():
    """A folder for temporary files whose path leaves room for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def train(write_folder, tmp_path, short):
    """Runs `rootstock train` with each of the arguments, all at once; gives their JSON."""
    images = write_folder({"train": 8, "val": 3, "test": 3})

    def run(place: int, args: tuple[str, ...]) -> dict:
        out = tmp_path / f"{place}.safetensors"
        given = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
        flags = {"--data": images, "--task": "patterns", "--out": out, "--threads": "1"}
        still = ("dropout=0", "drop_path=0", "precision=fp32")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "rootstock", "train", "--method", "lora"),
                *("--no-report", "--json"),
                *(word for pair in flags.items() for word in pair),
                *(word for setting in still for word in ("--set", setting)),
                *args,
            ],
            env=given | {"TMPDIR": str(short)},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) | {"stderr": done.stderr}

    def all_of(*commands: tuple[str, ...]) -> list[dict]:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(run, range(len(commands)), commands))

    return all_of


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_by_workers_is_the_sweep_of_one_process(train, short):
    """Same choice, same digests, and nothing of Ray is left."""
    sweep = ("--epochs", "2", "--batch", "6", "--sweep", "lr=1e-4,1e-2", "--seeds", "2")

    one, two = train(sweep, (*sweep, "--workers", "2"))

    assert two["protocol"] == one["protocol"]
    assert [s["digest"] for s in two["seeds"]] == [s["digest"] for s in one["seeds"]]
    assert "seed 1  epoch 2/2" in two["stderr"]
    assert not list(short.glob("rs-*"))


@pytest.mark.slow
@pytest.mark.ray
def test_processes_that_share_batches_train_as_one_does(train):
    """Up to rounding: each gives its part of every gradient."""
    plain = ("--epochs", "2", "--set", "lr=0.005", "--batch", "8")

    one, two = train(plain, (*plain, "--data-parallel", "2"))

    for mine, theirs in zip(two["log"], one["log"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["train_accuracy"] == pytest.approx(theirs["train_accuracy"], abs=0.05)
    assert set(two["metrics"]) == {"train", "val", "test"}
