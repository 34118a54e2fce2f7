"""`rootstock train` and `rootstock evaluate`, as a user runs them, on the bundled backbone."""

import json

import pytest
import typer
from typer.testing import CliRunner

from adapters_store import artifact
from adapters_store.store import AdapterStore
from rootstock.commands.evaluate import evaluate
from rootstock.commands.train import train


@pytest.fixture(scope="module")
def rootstock():
    """Runs a command line; gives its exit code, stdout and stderr."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("train")(train)
    app.command("evaluate")(evaluate)

    def run(*args):
        done = CliRunner().invoke(app, [str(a) for a in args])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.fixture
def images(write_folder):
    """A folder of three kinds of pictures without val/."""
    return write_folder({"train": 5, "test": 2})


def test_a_task_is_trained_published_and_measured(rootstock, images, tmp_path):
    """The file, the store and the score tell the same story."""
    out, store = tmp_path / "new/patterns.safetensors", f"file://{tmp_path}/store"
    common = ("--data", images, "--json")

    code, text, err = rootstock(
        *("train", *common, "--task", "patterns", "--method", "lora", "--out", out),
        *("--epochs", 2, "--set", "rank=2", "--set", "lr=0.02", "--batch", 6, "--store", store),
        "--no-report",
    )

    assert code == 0, err
    report = json.loads(text)
    assert report["options"]["rank"] == 2
    assert report["recipe"]["lr"] == 0.02
    assert report["digest"] == artifact.digest(out.read_bytes())
    assert report["published"] == {"release": 1, "generation": 1, "created": True}
    assert "epoch 2/2" in err
    backbone = artifact.read(out.read_bytes()).manifest.backbone.digest
    assert AdapterStore.open(store, backbone).blob(report["digest"]) == out.read_bytes()

    for split in ("train", "val", "test"):
        code, text, err = rootstock("evaluate", out, *common, "--split", split)

        assert code == 0, err
        found = json.loads(text)
        assert found["accuracy"] == report["metrics"][split]
        assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
        assert 0 <= found["calibration_error"] <= 1


def test_without_json_the_outcome_is_text(rootstock, images, tmp_path):
    """Accuracy, law and file on stdout; progress on stderr."""
    out = tmp_path / "a.safetensors"

    code, text, err = rootstock(
        *("train", "--data", images, "--task", "t", "--method", "linear", "--out", out),
        *("--epochs", 1, "--seed", 3, "--no-report"),
    )

    assert code == 0, err
    assert f"wrote {out}" in text
    assert "accuracy: test" in text
    code, text, _ = rootstock("evaluate", out, "--data", images)
    assert code == 0
    assert "of 6 test images" in text


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--data", "nowhere"), "no such folder"),
        (("--set", "magic=1"), "no setting 'magic' for method 'alore'; there are: "),
        (("--set", "rank=x"), "rank"),
        (("--set", "seed=1", "--seed", 2), "seed is given twice"),
        (("--method", "magic"), "unknown method 'magic'"),
        (("--geometry", "round"), "geometry"),
        (("--task", "No"), "'No' is not a valid name"),
        (("--set", "experts=5"), "5 experts do not divide"),
        (("--out", "."), "is a folder"),
        (("--weights", "missing.safetensors"), "no such file"),
        (("--store", "nonsense://x"), "nonsense"),
        (("--sweep", "magic=1,2"), "no setting 'magic' for method 'alore'"),
        (("--sweep", "lr="), "lr has an empty value"),
        (("--sweep", "lr=1,2", "--set", "lr=1"), "lr is both set and swept"),
        (("--sweep", "experts=4,5"), "5 experts do not divide"),
        (("--sweep", "seed=1,2"), "--seeds"),
        (("--workers", 2), "--workers shares out what --sweep and --seeds ask for"),
        (("--workers", 2, "--data-parallel", 2, "--seeds", 2), "two ways, choose one"),
        (("--tasks", "a,b"), "name the task with --task, or several with --tasks"),
        (("--layout", "vtab:magic"), "magic"),
        (("--method", "full", "--set", "rank=4"), "no setting 'rank' for method 'full'"),
        (("--method", "full", "--set", "sade=0.5"), "sade is for method clora alone, not for full"),
        (("--method", "linear", "--set", "drop_path=0.1"), "linear has no place for drop_path"),
        (("--method", "ssf", "--sweep", "dropout=0,0.1"), "ssf has no place for dropout"),
        (("--method", "full", "--store", "memory://"), "adapters are published"),
        (("--report", "x", "--no-report"), "contradict"),
        (("--report", __file__), "is a file, --report names a folder"),
    ],
)
def test_a_users_mistake_is_one_line_and_nothing_is_written(
    rootstock, images, tmp_path, extra, message
):
    """Exit 1, one line on stderr, no traceback, no file."""
    given = {"--data": images, "--task": "t", "--out": tmp_path / "a.safetensors", "--epochs": 1}
    flags = [x for k, v in given.items() if k not in extra for x in (k, v)]

    code, text, err = rootstock("train", *flags, *extra)

    assert code == 1
    assert text == ""
    assert message in err
    assert err.startswith("rootstock: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.safetensors"))


def test_an_artifact_is_measured_on_its_own_backbone_alone(
    rootstock, images, tmp_path, nano, make_adapter
):
    """Other weights are refused, and so are bytes that are no artifact."""
    other = nano.spec.ref.model_copy(update={"digest": "0" * 64})
    adapter = make_adapter(nano, "linear", labels=3, effect=False)
    manifest = adapter.manifest.model_copy(update={"backbone": other})
    file = tmp_path / "other.safetensors"
    file.write_bytes(artifact.write(type(adapter)(manifest=manifest, tensors=adapter.tensors)))

    code, _, err = rootstock("evaluate", file, "--data", images)

    assert code == 1
    assert "was made for" in err
    file.write_bytes(b"pickle")
    assert rootstock("evaluate", file, "--data", images)[0] == 1
    assert rootstock("evaluate", tmp_path / "none", "--data", images)[0] == 1
