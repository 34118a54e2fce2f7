"""Several processes make the step that one would make."""

import json
import subprocess
import sys

import pytest
import torch

from training.ranks import ALONE, Ranks


def test_the_parts_of_a_batch_are_the_batch():
    """Nothing is left out and nothing comes twice; the first always has some."""
    for count in (1, 2, 7, 12):
        rows = torch.arange(count)

        parts = [Ranks(rank=rank, world=5).part(rows) for rank in range(5)]

        assert torch.equal(torch.cat(parts), rows)
        assert len(parts[0]) > 0


def test_alone_nothing_is_sent():
    """No group has to exist."""
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 3.0)

    ALONE.add_gradients([weight])
    ALONE.add(weight.grad)
    ALONE.check_together(4, torch.device("cpu"))

    assert weight.grad.tolist() == [3.0, 3.0]
    assert Ranks.joined() == ALONE


WORKER = """
import json, sys
from pathlib import Path
from adapters_store.threads import wait_passively
wait_passively()
import numpy as np, torch
torch.set_num_threads(1)
from torch import distributed
from adapters_store import backbone
from training.checkpoint import Checkpoint
from training.data import from_arrays
from training.ranks import Ranks
from training.recipe import Recipe
from training.run import fit_task
from training.watch import Watch
rank, world, folder, method = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
broken = sys.argv[5] == "broken"
if world > 1:
    where = (folder / "meeting").as_uri()
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=world)
frozen = backbone.random(
    "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3
)
rng = np.random.default_rng(0)
count = {"train": 21, "val": 9}
data = from_arrays(("a", "b", "c"), {
    name: (rng.integers(0, 256, (n, 3, 32, 32), np.uint8), np.arange(n) % 3)
    for name, n in count.items()
})
recipe = Recipe(
    epochs=3, batch=10, lr=1e-2, drop_path=0, dropout=0, sade=0.3 if method == "clora" else 0
)
class Cut(Exception): pass
def cut(row):
    if row.epoch == 2 and broken: raise Cut
def go(resume, watch):
    kept = Checkpoint(path=folder / "run.ckpt", every_s=0, resume=resume) if broken else None
    return fit_task(data, frozen, "t", method, {}, recipe, device=torch.device("cpu"),
                    watch=watch, checkpoint=kept, ranks=Ranks.joined())
if broken:
    try:
        go(False, Watch(on_epoch=cut))
    except Cut:
        pass
    made = go(True, Watch())
else:
    made = go(False, Watch())
(folder / f"{rank}.json").write_text(json.dumps({
    "head": made.head.weight.tolist(),
    "factors": {n: t.flatten().double().tolist() for n, t in made.module.export().items()},
    "log": [[r.loss, r.train_accuracy, r.val_accuracy] for r in made.log],
}))
if world > 1:
    distributed.destroy_process_group()
"""


def trained(folder, world, method, how="unbroken"):
    """What each of so many processes ended with."""
    folder.mkdir()
    words = [
        [sys.executable, "-c", WORKER, rank, world, folder, method, how] for rank in range(world)
    ]
    running = [subprocess.Popen([str(w) for w in line]) for line in words]
    assert [process.wait() for process in running] == [0] * world
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["clora", "heart_lora"])
def test_two_processes_train_what_one_would(tmp_path, method):
    """21 images in batches of 10: the last batch has one, and the second process none of it.

    CLoRA's penalty counts once, and Heart-LoRA's processes choose the same heads.
    """
    (alone,) = trained(tmp_path / "alone", 1, method)
    first, second = trained(tmp_path / "both", 2, method)

    assert first == second
    torch.testing.assert_close(
        torch.tensor(first["log"]), torch.tensor(alone["log"]), rtol=1e-4, atol=1e-5
    )
    for name, factor in alone["factors"].items():
        torch.testing.assert_close(
            torch.tensor(first["factors"][name]), torch.tensor(factor), rtol=1e-3, atol=1e-4
        )


@pytest.mark.slow
def test_processes_that_are_broken_off_go_on_together(tmp_path):
    """After an epoch, from the one file that the first of them writes."""
    whole = trained(tmp_path / "whole", 2, "clora")

    assert trained(tmp_path / "broken", 2, "clora", "broken") == whole
