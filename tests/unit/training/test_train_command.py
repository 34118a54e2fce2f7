"""What `rootstock train` does beyond one plain run: searches, seeds, many tasks, bad images."""

import json

import pytest
import typer
from typer.testing import CliRunner

from adapters_store import artifact
from adapters_store.store import AdapterStore
from rootstock.commands import train_report as reports
from rootstock.commands.train import train
from training import acts


@pytest.fixture(scope="module")
def rootstock():
    """Runs `rootstock train`; gives its exit code, stdout and stderr."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(train)

    def run(*args):
        done = CliRunner().invoke(app, [str(a) for a in args])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.fixture
def images(write_folder):
    return write_folder({"train": 4, "val": 2, "test": 2})


@pytest.fixture
def common(images, tmp_path):
    return (
        *("--data", images, "--task", "patterns", "--out", tmp_path / "a.safetensors"),
        *("--method", "linear", "--epochs", 1),
    )


def test_a_sweep_chooses_on_val_and_seeds_give_mean_and_deviation(rootstock, common, tmp_path):
    code, text, err = rootstock(
        *common, "--sweep", "lr=1e-5,3e-2", "--seeds", 2, "--no-report", "--json"
    )

    assert code == 0, err
    told = json.loads(text)
    assert [trial["settings"]["lr"] for trial in told["trials"]] == [1e-5, 3e-2]
    best = max(trial["val_accuracy"] for trial in told["trials"])
    assert told["trials"][told["protocol"]["chosen"]]["val_accuracy"] == best
    assert [run["seed"] for run in told["seeds"]] == [0, 1]
    assert told["digest"] == told["seeds"][0]["digest"]
    assert told["test"]["seeds"] == 2
    made = artifact.read((tmp_path / "a.safetensors").read_bytes()).manifest
    assert made.provenance.recipe["protocol"] == told["protocol"]
    assert set(made.metrics) == {"train", "test"}
    assert not (tmp_path / "a.safetensors.unfinished").exists()
    assert "point 2/2: lr=0.03  " in err


@pytest.mark.slow
def test_the_same_command_twice_gives_the_same_digest_and_a_report(rootstock, common, tmp_path):
    found = []
    for _ in range(2):
        code, text, err = rootstock(*common, "--json")
        assert code == 0, err
        found.append(json.loads(text))

    assert found[0]["digest"] == found[1]["digest"]
    assert found[0]["report"] == str(tmp_path / "a.report")
    card = (tmp_path / "a.report" / "README.md").read_text()
    assert found[0]["digest"] in card
    assert "6 test images" in card


def test_a_run_that_broke_off_is_resumed_and_nothing_to_resume_is_said(
    rootstock, common, tmp_path, monkeypatch
):
    export = acts.export_task

    def broken(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(acts, "export_task", broken)
    asked = (*common, "--no-report", "--seeds", 1, "--sweep", "lr=1e-3,1e-2")
    assert rootstock(*asked)[0] != 0
    monkeypatch.setattr(acts, "export_task", export)
    assert (tmp_path / "a.safetensors.unfinished").is_dir()

    code, text, err = rootstock(*asked, "--resume", "--json")

    assert code == 0, err
    assert "point 1/2: lr=0.001  epoch" not in err  # it was done
    code, text_again, err = rootstock(*asked, "--resume", "--json")
    assert "nothing to resume" in err
    assert json.loads(text)["digest"] == json.loads(text_again)["digest"]


def test_bad_images_are_left_out_and_named_or_refused(rootstock, common, images):
    (images / "train" / "bars" / "broken.png").write_bytes(b"no picture")

    code, text, err = rootstock(*common, "--no-report", "--json")

    assert code == 0, err
    assert "left out 1 file that cannot be decoded" in err
    assert "broken.png" in json.loads(text)["skipped"][0]

    code, _, err = rootstock(*common, "--no-report", "--strict")
    assert code == 1
    assert "broken.png" in err


def test_several_tasks_go_together_into_a_folder(rootstock, write_folder, tmp_path):
    for name in ("one", "two"):
        write_folder({"train": 4, "val": 2}, name=f"all/{name}")

    code, text, err = rootstock(
        *("--data", tmp_path / "all", "--tasks", "one,two", "--out", tmp_path / "made"),
        *("--method", "lora", "--epochs", 2, "--batch", 6, "--json", "--no-report"),
    )

    assert code == 0, err
    told = json.loads(text)
    assert [row["task"] for row in told] == ["one", "two"]
    for row in told:
        assert row["file"] == str(tmp_path / "made" / f"{row['task']}.safetensors")
        assert (
            artifact.digest((tmp_path / "made" / f"{row['task']}.safetensors").read_bytes())
            == (row["digest"])
        )


def test_a_report_that_fails_loses_no_task(rootstock, write_folder, tmp_path, monkeypatch):
    for name in ("one", "two"):
        write_folder({"train": 2}, name=f"all/{name}")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reports, "reported", full_disk)

    code, _, err = rootstock(
        *("--data", tmp_path / "all", "--tasks", "one,two", "--out", tmp_path / "made"),
        *("--method", "linear", "--epochs", 1, "--store", f"file://{tmp_path}/store"),
    )

    assert code == 1
    assert "No space left" in err
    files = sorted((tmp_path / "made").iterdir())
    assert [file.name for file in files] == ["one.safetensors", "two.safetensors"]
    digest = artifact.read(files[0].read_bytes()).manifest.backbone.digest
    store = AdapterStore.open(f"file://{tmp_path}/store", digest)
    for file in files:
        data = file.read_bytes()
        assert store.blob(artifact.digest(data)) == data


@pytest.mark.parametrize(
    ("out", "report"),
    [("a.safetensors", "a.report"), ("a.report", "a.report.report"), ("a.v2", "a.v2.report")],
)
def test_a_file_in_the_place_of_the_report_is_refused_beforehand(
    rootstock, images, tmp_path, out, report
):
    (tmp_path / report).write_text("mine")

    code, _, err = rootstock("--data", images, "--task", "t", "--out", tmp_path / out)

    assert code == 1
    assert f"{tmp_path / report} is a file" in err
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tasks", "a,a"), "different names"),
        (("--tasks", "a,"), "different names"),
        (("--tasks", "a,b", "--seeds", 2), "without --seeds"),
        (("--tasks", "a,b", "--sweep", "lr=1,2"), "without --sweep"),
        (("--tasks", "a,b", "--data-parallel", 2), "in one process"),
        (("--tasks", "a,b", "--layout", "vtab:cifar"), "not with --tasks"),
        (("--tasks", "a,b", "--resume"), "nothing to --resume"),
        (("--tasks", "a,b", "--method", "full"), "freezes nothing"),
        ((), "name the task with --task"),
    ],
)
def test_what_does_not_go_with_many_tasks_is_refused(rootstock, tmp_path, flags, message):
    code, text, err = rootstock("--data", tmp_path, "--out", tmp_path / "made", *flags)

    assert code == 1
    assert text == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_full_fine_tuning_writes_a_model_and_a_report(rootstock, images, tmp_path):
    code, text, err = rootstock(
        *("--data", images, "--task", "patterns", "--out", tmp_path / "m.safetensors"),
        *("--method", "full", "--epochs", 1, "--json"),
    )

    assert code == 0, err
    told = json.loads(text)
    assert told["parameters"] > 1_000_000
    assert "every weight of it trained" in (tmp_path / "m.report" / "README.md").read_text()
