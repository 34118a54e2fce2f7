"""`rootstock evaluate` on what is no image folder, and on several artifacts at once."""

import json

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from adapters_store import artifact
from rootstock.commands.evaluate import evaluate
from training.vtab import TASKS


@pytest.fixture(scope="module")
def measured():
    """Runs the command; gives its exit code, its JSON value or text, and stderr."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(evaluate)

    def run(*args):
        done = CliRunner().invoke(app, [str(a) for a in args])
        value = json.loads(done.stdout) if "--json" in args and done.stdout else done.stdout
        return done.exit_code, value, done.stderr

    return run


def wrong(task):
    """How many of its test images are of the class 0; one is of the class 1."""
    return len(task.name) % 3 + 1


@pytest.fixture(scope="module")
def vtab(tmp_path_factory):
    """All of VTAB-1k, of one picture a split; the last line of every test list names no picture."""
    root = tmp_path_factory.mktemp("data")
    for task in TASKS:
        folder = root / "vtab-1k" / task.name
        folder.mkdir(parents=True)
        for name in ("train800", "val200", "test"):
            Image.new("RGB", (8, 8), (90, 50, 20)).save(folder / f"{name}.png")
            labels = [1, *[0] * wrong(task)] if name == "test" else range(task.classes)
            lines = [f"{name}.png {label}\n" for label in labels]
            (folder / f"{name}.txt").write_text("".join(lines))
        (folder / "bad.png").write_bytes(b"no picture")
        with (folder / "test.txt").open("a") as file:
            file.write("bad.png 0\n")
    return root


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory, nano, make_adapter):
    """One for every task, which answers with the class 1 whatever it sees."""
    folder = tmp_path_factory.mktemp("artifacts")
    for task in TASKS:
        made = make_adapter(nano, "linear", task=task.name, labels=task.classes, effect=False)
        labels = tuple(str(n) for n in range(task.classes))
        manifest = made.manifest.model_copy(update={"labels": labels})
        bias = np.eye(task.classes, dtype=np.float32)[1]
        head = {"head.weight": np.zeros_like(made.head_weight), "head.bias": bias}
        file = folder / f"{task.name}.safetensors"
        file.write_bytes(artifact.write(type(made)(manifest=manifest, tensors=head)))
    return [folder / f"{task.name}.safetensors" for task in TASKS]


def test_every_artifact_of_vtab_is_measured_on_its_own_task_and_nineteen_have_means(
    measured, vtab, artifacts
):
    code, found, err = measured(*artifacts, "--data", vtab, "--layout", "vtab", "--json")

    assert code == 0, err
    assert [one["task"] for one in found["results"]] == [task.name for task in TASKS]
    wanted = [1 / (1 + wrong(task)) for task in TASKS]
    assert [one["accuracy"] for one in found["results"]] == pytest.approx(wanted)
    groups = [
        np.mean([1 / (1 + wrong(task)) for task in TASKS if task.group == group])
        for group in found["groups"]
    ]
    assert list(found["groups"].values()) == pytest.approx(groups)
    assert found["mean19"] == pytest.approx(np.mean(wanted))
    assert found["mean3"] == pytest.approx(np.mean(groups))


def test_some_of_the_tasks_have_no_mean_and_it_is_said_which_are_missing(measured, vtab, artifacts):
    code, text, _ = measured(*artifacts[:2], "--data", vtab, "--layout", "vtab")

    assert code == 0
    assert "no means:" in text
    assert "svhn" in text


def test_files_that_cannot_be_decoded_are_left_out_and_named_and_strict_refuses_them(
    measured, vtab, artifacts
):
    flags = (artifacts[0], "--data", vtab, "--layout", "vtab:cifar", "--json")

    code, found, err = measured(*flags)
    assert code == 0
    assert found["images"] == 1 + wrong(TASKS[0])
    assert len(found["skipped"]) == 1
    assert "left out 1 file that cannot be decoded" in err
    assert "bad.png" in err

    code, _, err = measured(*flags, "--strict")
    assert code == 1
    assert "bad.png" in err
