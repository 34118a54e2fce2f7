"""`rootstock bench together`: both ways of training the same tasks, timed step by step."""

import json

import pytest
from typer.testing import CliRunner

from rootstock.main import app


@pytest.fixture
def run(tiny, monkeypatch):
    """The command on the two-block backbone."""
    monkeypatch.setattr("adapters_store.backbone.load", lambda *_, **__: tiny)

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["bench", "together", "--threads", "1", *words])
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.stderr

    return run


def test_each_batch_has_a_row_of_either_way(run):
    """The ratio is to one after another, and images are those of all tasks."""
    rows = json.loads(
        run("--method", "lora", "--tasks", "2", "--batch", "2", "--steps", "1", "--rounds", "2",
            "--json")
    )  # fmt: skip

    assert [(r["bench"], r["system"], r["batch"], r["tasks"]) for r in rows] == [
        ("together", "alone", 2, 2),
        ("together", "together", 2, 2),
    ]
    assert rows[0]["ratio"] == 1.0
    for row in rows:
        low, high = row["quartiles"]
        assert low <= row["ratio"] <= high
        assert row["images_per_s"] == pytest.approx(4 / row["seconds"], rel=0.01)


def test_a_method_without_sites_has_nothing_to_share(run):
    assert "trains no site" in run("--method", "linear", code=1)


def test_words_that_mean_nothing_are_refused(run):
    assert "--dtype is bf16 or fp32" in run("--dtype", "fp64", code=1)
    assert "no such device" in run("--device", "tpu", code=1)
