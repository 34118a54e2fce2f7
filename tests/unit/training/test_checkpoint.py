"""A broken run goes on to the bytes of an unbroken one, and nothing else is mistaken for it."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from training.checkpoint import Checkpoint, Keeper, Saved
from training.errors import CheckpointInvalidError
from training.full import train_full
from training.recipe import Recipe
from training.run import train_task
from training.watch import Watch

RUNS = {  # dropout and stochastic depth are on in all of them
    "alore": Recipe(epochs=3, batch=10, lr=1e-2),
    "heart_lora": Recipe(epochs=3, batch=10, lr=1e-2),
    "clora": Recipe(epochs=3, batch=10, lr=1e-2, sade=0.5),
    "linear": Recipe(epochs=3, batch=10, lr=1e-2),
}


class PowerCutError(Exception):
    """Raised by a watch in the middle of a run."""


def breaking_at(step):
    """A watch that ends the run there."""

    def on_step(done, _of):
        if done == step:
            raise PowerCutError

    return Watch(on_step=on_step)


def keep(tmp_path, **more):
    """A checkpoint that is written after every step."""
    return Checkpoint(path=tmp_path / "run.ckpt", every_s=0, **more)


@pytest.fixture
def break_off(tiny, patterns, tmp_path):
    """A run that ends after so many steps and leaves its checkpoint."""

    def run(method="alore", step=4, recipe=None):
        with pytest.raises(PowerCutError):
            train_task(
                patterns,
                tiny,
                "name",
                method,
                {},
                recipe or RUNS[method],
                watch=breaking_at(step),
                checkpoint=keep(tmp_path),
            )
        return tmp_path / "run.ckpt"

    return run


@pytest.mark.parametrize(
    ("method", "step"),
    [("alore", 9), ("heart_lora", 2), ("heart_lora", 3), ("clora", 4), ("linear", 4)],
)
def test_a_broken_run_resumes_to_the_same_bytes(tiny, patterns, break_off, tmp_path, method, step):
    """In the middle of an epoch, at its end and after the last step; the file is gone then."""
    whole = train_task(patterns, tiny, "name", method, {}, RUNS[method])
    break_off(method, step)
    told = []

    made = train_task(
        patterns,
        tiny,
        "name",
        method,
        {},
        RUNS[method],
        watch=Watch(on_resume=lambda *at: told.append(at)),
        checkpoint=keep(tmp_path, resume=True),
    )

    assert told == [(step, 9)]
    assert made.data == whole.data
    assert [row.loss for row in made.log] == [row.loss for row in whole.log]
    assert list(tmp_path.iterdir()) == []


def test_a_fully_fine_tuned_model_resumes_too(tiny, patterns, brief, tmp_path):
    """Every weight and both of its moments are kept."""
    whole = train_full(patterns, tiny, brief)
    with pytest.raises(PowerCutError):
        train_full(patterns, tiny, brief, watch=breaking_at(5), checkpoint=keep(tmp_path))

    made = train_full(patterns, tiny, brief, checkpoint=keep(tmp_path, resume=True))

    assert made.data == whole.data


def test_a_run_with_crops_resumes_too(tiny, patterns, tmp_path):
    """An image's crop follows from the epoch and its row."""
    train = dataclasses.replace(patterns.train, wide=patterns.train.images.repeat(2, axis=3))
    data = dataclasses.replace(patterns, splits={**patterns.splits, "train": train})
    recipe = RUNS["alore"].model_copy(update={"augment": "crop_flip"})
    whole = train_task(data, tiny, "name", "alore", {}, recipe)
    with pytest.raises(PowerCutError):
        train_task(
            data,
            tiny,
            "name",
            "alore",
            {},
            recipe,
            watch=breaking_at(5),
            checkpoint=keep(tmp_path),
        )

    made = train_task(
        data, tiny, "name", "alore", {}, recipe, checkpoint=keep(tmp_path, resume=True)
    )

    assert made.data == whole.data


def test_a_run_that_does_not_resume_begins_anew(tiny, patterns, break_off, tmp_path):
    """What lies there is not looked at, and is replaced."""
    break_off()
    told = []

    train_task(
        patterns,
        tiny,
        "name",
        "linear",
        {},
        RUNS["linear"],
        watch=Watch(on_resume=lambda *at: told.append(at)),
        checkpoint=keep(tmp_path),
    )

    assert told == []
    assert list(tmp_path.iterdir()) == []


def test_without_a_file_there_is_nothing_to_resume(tiny, patterns, tmp_path):
    """A run that is always started with resume begins at its beginning."""
    made = train_task(
        patterns, tiny, "name", "linear", {}, RUNS["linear"], checkpoint=keep(tmp_path, resume=True)
    )

    assert len(made.log) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": RUNS["alore"].model_copy(update={"lr": 5e-3})}, r"recipe\.lr is 0\.01.*0\.005"),
        ({"options": {"rank": 2}}, r"options\.rank is 4, this run's is 2"),
        ({"method": "lora"}, "method is"),
    ],
)
def test_another_runs_checkpoint_is_refused(tiny, patterns, break_off, tmp_path, change, said):
    """The message says what differs, and what to do."""
    break_off()
    asked = {"method": "alore", "options": {}, "recipe": RUNS["alore"], **change}

    with pytest.raises(CheckpointInvalidError, match=said):
        train_task(patterns, tiny, "name", **asked, checkpoint=keep(tmp_path, resume=True))


def test_how_memory_is_saved_may_change_between_two_halves(tiny, patterns, break_off, tmp_path):
    """Recomputing changes no bit, so a run that did not fit can go on with it."""
    whole = train_task(patterns, tiny, "name", "alore", {}, RUNS["alore"])
    break_off()

    made = train_task(
        patterns,
        tiny,
        "name",
        "alore",
        {},
        RUNS["alore"].model_copy(update={"recompute": True}),
        checkpoint=keep(tmp_path, resume=True),
    )

    assert made.data == whole.data


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda _: b"", lambda b: b[::-1]])
def test_a_damaged_file_is_refused(tiny, patterns, break_off, tmp_path, spoil):
    """Cut short, empty or scrambled: one line, and no traceback of another library."""
    file = break_off()
    file.write_bytes(spoil(file.read_bytes()))

    with pytest.raises(CheckpointInvalidError, match="cannot be read"):
        train_task(
            patterns,
            tiny,
            "name",
            "alore",
            {},
            RUNS["alore"],
            checkpoint=keep(tmp_path, resume=True),
        )


def test_any_other_safetensors_file_is_no_checkpoint(tmp_path):
    """Such as an adapter, or weights."""
    save_file({"x": torch.zeros(2)}, tmp_path / "run.ckpt")

    with pytest.raises(CheckpointInvalidError, match="no checkpoint"):
        Keeper(keep(tmp_path, resume=True), {}).saved()


def test_a_save_that_fails_leaves_what_was_there(tmp_path):
    """The file is replaced by a whole one or not at all."""
    keeper = Keeper(keep(tmp_path, resume=True), {})
    keeper.save(Saved(tensors={"x": torch.ones(2)}, facts={"step": 1}))

    with pytest.raises(ValueError, match="JSON"):
        keeper.save(Saved(tensors={"x": torch.zeros(2)}, facts={"step": np.nan}))

    assert keeper.saved().facts == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["run.ckpt"]


def test_saves_are_as_far_apart_as_asked(tmp_path):
    """The first one is not due when the run begins."""
    assert not Keeper(Checkpoint(path=tmp_path / "run.ckpt", every_s=1e6), {}).due
    assert Keeper(keep(tmp_path), {}).due


KILLED = """
import dataclasses, sys
from pathlib import Path
from adapters_store.threads import wait_passively
wait_passively()
import numpy as np, torch
torch.set_num_threads(1)
from adapters_store import backbone
from rootstock.bench.learning import scans
from training.checkpoint import Checkpoint
from training.recipe import Recipe
from training.run import train_task
kept, out, resume = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "resume"
frozen = backbone.load()
data = scans(frozen)
few = {n: s.where(np.arange(len(s.labels)) < 60) for n, s in data.splits.items()}
data = dataclasses.replace(data, splits=few)
checkpoint = Checkpoint(path=kept, every_s=0, resume=resume) if kept.name != "none" else None
made = train_task(
    data, frozen, "scans", "heart_lora", {},
    Recipe(epochs=2, batch=10, lr=1e-2, precision=sys.argv[4]), checkpoint=checkpoint,
)
out.write_bytes(made.data)
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path, precision):
    """SIGKILL after the first checkpoint; the same command with resume ends as if nothing was."""

    def start(kept, out, how):
        words = [sys.executable, "-c", KILLED, tmp_path / kept, tmp_path / out, how, precision]
        return subprocess.Popen([str(word) for word in words])

    whole = start("none", "whole", "new")
    victim, file = start("run.ckpt", "broken", "new"), tmp_path / "run.ckpt"
    until = time.monotonic() + 300
    while not file.exists() and time.monotonic() < until and victim.poll() is None:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert not (tmp_path / "broken").exists()
    assert whole.wait() == 0

    assert start("run.ckpt", "resumed", "resume").wait() == 0

    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not file.exists()
    assert Path(tmp_path / "whole").stat().st_size > 0
