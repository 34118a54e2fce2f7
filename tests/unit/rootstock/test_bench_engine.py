"""`rootstock bench` of the engine: rows of the promised shape, and of right answers only."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from adapters_store import artifact
from rootstock.bench import mixed, rivals
from rootstock.bench.adapters import Choice
from rootstock.bench.forms import forms
from rootstock.bench.proof import WrongAnswerError
from rootstock.bench.registered import Registered
from rootstock.bench.setting import Setting, Tell, one_core_busy, public
from rootstock.main import app

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own

SHAPE = {
    "bench", "system", "method", "backbone", "dtype", "device", "threads", "batch", "distinct",
    "ratio", "quartiles", "runs",
}  # fmt: skip


def run(*words: object, code: int = 0) -> str:
    """The output of a command that ends with this code: stdout, or of failures stderr."""
    result = CliRunner().invoke(app, ["bench", *map(str, words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else result.stderr


def rows(*words: object) -> list[dict]:
    """What `--json` prints, each row of the promised shape."""
    found = json.loads(run(*words, "--threads", 1, "--json"))
    assert found
    for row in found:
        assert set(row) >= SHAPE
        assert row["bench"] == words[0]
        assert row["system"] in ("bare", "mixed", "merged", "peft", "swap", "full")
    return found


@pytest.fixture
def small(tiny, monkeypatch):
    """The commands' backbone is the two-block one."""
    monkeypatch.setattr("adapters_store.backbone.load", lambda *_, **__: tiny)


@pytest.fixture
def setting(small) -> Setting:
    return Setting.open("rootstock_nano", None, "fp32", "cpu", 1)


def test_mixed_compares_every_system_with_the_fastest_bare_form(small):
    systems = [w for name in ("mixed", "swap", "full") for w in ("--system", name)]
    found = rows(
        "mixed", "--rounds", 3, "--batch", 9, "--method", "lora", "--dtype", "fp32", *systems
    )

    bare = [r for r in found if r["system"] == "bare"]
    assert {r["form"] for r in bare} == {"timm", "engine", "timm/8", "engine/8"}
    assert [r["ratio"] for r in bare if r["reference"]] == [1.0]
    timm = next(r for r in bare if r["form"] == "timm")
    assert timm["against_timm"] == 1.0
    others = [(r["system"], r["distinct"]) for r in found if r["system"] != "bare"]
    assert others == [("mixed", 9), ("swap", 9), ("full", 9), ("mixed", 1)]
    for row in found:
        low, high = row["quartiles"]
        assert low <= row["ratio"] <= high
        assert row["images_per_s"] == pytest.approx(9 / row["seconds"], rel=0.01)
        assert row["compiled"] is False


@pytest.mark.parametrize("works", [True, False])
def test_rows_say_whether_a_compiled_bare_form_was_among_those_compared(small, monkeypatch, works):
    def broken(*_, **__):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("torch.compile", lambda f, **_: f if works else broken)
    words = ("--rounds", 1, "--batch", 2, "--method", "lora", "--system", "mixed", "--compiled")

    assert {r["compiled"] for r in rows("mixed", *words)} == {works}


def test_rows_never_hold_paths_of_the_machine(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("adapters_store.backbone.random", lambda *_, **__: tiny)
    words = ("--rounds", 1, "--batch", 2, "--method", "lora", "--system", "mixed")

    found = rows("mixed", *words, "--backbone", f"local-dir:{tmp_path}/mine")

    assert {r["backbone"] for r in found} == {"mine"}
    said = json.dumps(found)
    assert str(tmp_path) not in said
    assert str(Path.home()) not in said
    assert public("hf-hub:timm/vit_tiny") == "hf-hub:timm/vit_tiny"


@pytest.mark.slow
def test_peft_counts_with_the_faster_of_whole_batches_and_chunks(small, monkeypatch):
    """Chunks are made slow: only the row of whole batches is there."""
    pytest.importorskip("peft")
    words = ("mixed", "--rounds", 1, "--batch", 9, "--method", "lora", "--dtype", "fp32")
    real = mixed.in_chunks
    counted: list[int] = []

    def slow(batch, size):
        counted.append(size)
        time.sleep(0.5)
        return real(batch, size)

    monkeypatch.setattr(mixed, "in_chunks", slow)
    systems = ("--system", "peft", "--system", "mixed", "--distinct", 9)
    found = rows(*words, *systems)

    assert [r["form"] for r in found if r["system"] == "peft"] == ["peft"]
    assert set(counted) == {8}


@pytest.mark.slow
def test_peft_answers_alike_in_its_own_mixed_batches(small):
    pytest.importorskip("peft")
    for method in ("lora", "lora:variant=qv,rank=3"):
        found = rows("mixed", "--rounds", 1, "--batch", 3, "--method", method)

        (peft,) = [r for r in found if r["system"] == "peft"]
        ours = next(r for r in found if r["system"] == "mixed")
        assert ours["against_peft"] > 0
        assert peft["distinct"] == 3
        assert peft["against_plain"] < 0.05


def test_chunks_are_left_out_where_they_would_be_the_batch(small):
    found = rows("mixed", "--rounds", 1, "--batch", 2, "--method", "alore", "--system", "mixed")

    assert [r["form"] for r in found if r["system"] == "bare"] == ["timm", "engine"]


@pytest.mark.slow
def test_tasks_reports_throughput_and_tail_by_size_and_popularity(small):
    found = rows("tasks", "--tasks", 1, "--tasks", 20, "--batch", 4, "--batches", 3, "--rounds", 2)

    assert [(r["popularity"], r["tasks"]) for r in found] == [
        ("uniform", 1), ("uniform", 20), ("zipf", 1), ("zipf", 20),
    ]  # fmt: skip
    for row in found:
        assert row["p99_s"] >= row["seconds"]
        assert row["p99_of"] == 6  # batches, of both runs
        assert row["registration_s"] > 0
    assert [r["ratio"] for r in found if r["tasks"] == 1] == [1.0, 1.0]
    assert found[1]["host_bytes"] > 10 * found[0]["host_bytes"]


@pytest.mark.slow
def test_swap_reports_every_stage_the_cold_path_and_the_stall(small):
    found = rows("swap", "--adapters", 2, "--batch", 2, "--batches", 3, "--rounds", 2)

    stages = [r["stage"] for r in found]
    assert stages[:6] == ["fetch", "validate", "prepare", "check", "slot", "whole load"]
    cold, bare, stall = found[6:]
    assert cold["over_bar_s"] == pytest.approx(cold["seconds"] - 4 * bare["seconds"] - 0.1, abs=0.1)
    assert stall["p99_ratio"] > 0
    assert stall["p99_of"] == 6
    assert stall["swaps_per_s"] > 0


@pytest.mark.slow
def test_merge_reports_folding_parity_speed_and_break_even(small):
    found = rows("merge", "--batch", 4, "--rounds", 2, "--n", 5)

    assert found[0]["images"] == 5
    assert found[0]["top1_agreement"] >= 0.8
    assert [r["system"] for r in found[1:4]] == ["bare", "mixed", "merged"]
    assert [r["samples"] for r in found[4:]] == [1, 2, 4]


@pytest.mark.slow
def test_merge_folds_an_artifact_that_it_is_given(small, setting, tmp_path):
    file = tmp_path / "task.safetensors"
    file.write_bytes(artifact.write(setting.maker.make("ssf", "task", 0)))

    found = rows("merge", "--batch", 2, "--rounds", 1, "--n", 2, "--adapter", file)

    assert [r["method"] for r in found[:4]] == ["ssf", "linear", "ssf", "ssf"]


@pytest.mark.slow
def test_memory_weighs_a_task_in_every_place(small, monkeypatch):
    monkeypatch.setattr("rootstock.bench.memory._WARM", 4)
    ours, full = rows("memory", "--tasks", 20)

    assert ours["tasks"] == 20
    assert 0.5 < ours["host_bytes"] / ours["artifact_bytes"] < 2
    assert ours["slot_bytes"] > 0
    assert full["host_bytes"] > ours["host_bytes"]


@pytest.mark.slow
def test_tables_are_for_readers(small):
    words = ("--rounds", 1, "--batch", 2, "--method", "lora:rank=2", "--system", "mixed")

    said = run("mixed", *words, "--threads", 1)

    assert "(reference)" in said
    assert "lora:rank=2" in said


def test_an_arm_that_answers_wrongly_gets_no_row_and_ends_the_command(small, monkeypatch):
    """A rival that gives each sample its neighbour's answer, as fast as it may be."""
    right = rivals.WholeModels.full
    monkeypatch.setattr(rivals.WholeModels, "full", lambda *a: right(*a)[::-1])
    words = ("mixed", "--rounds", 1, "--batch", 2, "--method", "alore", "--threads", 1)

    said = run(*words, code=1)

    assert said.splitlines()[-1].startswith("rootstock: no speed is given for wrong answers: full")
    result = CliRunner().invoke(app, ["bench", *map(str, words), "--json"])
    assert result.exit_code == 1
    assert "full" not in {row["system"] for row in json.loads(result.stdout)}


def test_an_arm_that_turns_wrong_while_it_is_timed_is_refused():
    answers, wrong = [np.ones(3, np.float32)], [-np.ones(3, np.float32)]
    turns = iter([answers, answers, wrong])

    with pytest.raises(WrongAnswerError, match="last round"):
        mixed._proven({"arm": lambda: next(turns)}, answers, "bf16", 2)


@pytest.mark.slow
@pytest.mark.parametrize("bench", ["tasks", "swap"])
def test_one_row_of_a_neighbouring_task_is_refused(small, monkeypatch, bench):
    """Task 4 has the factors of task 0: an engine that takes one for the other is found out."""
    right = Registered.run

    def confused(self, pixels, tasks):
        return right(self, pixels, [4, *tasks[1:]] if tasks[0] == 0 else tasks)

    monkeypatch.setattr(Registered, "run", confused)
    size = ("--tasks", 20) if bench == "tasks" else ("--adapters", 1)
    words = (bench, *size, "--batch", 8, "--batches", 1, "--rounds", 1, "--threads", 1)

    assert "no speed is given for wrong answers" in run(*words, code=1).splitlines()[-1]


def test_answers_that_depend_on_the_batch_are_refused(setting, monkeypatch):
    mixture = mixed.Mixture.random(setting, Choice.parse("alore"), 4, 4)
    right = setting.engine.run
    monkeypatch.setattr(
        setting.engine, "run", lambda p, a: [r * (1 + 0.01 * len(a)) for r in right(p, a)]
    )

    with pytest.raises(WrongAnswerError, match="the same sample alone"):
        mixed.check_alone(setting, mixture)


def test_a_compiler_that_fails_is_told_and_left_out(setting, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr("torch.compile", lambda *_, **__: broken)
    said: list[str] = []

    found = forms(
        setting, setting.maker.make("linear", "bare", 0), True, Tell(said.append, said.append)
    )

    assert set(found) == {"timm", "engine", "timm/8", "engine/8"}
    assert "torch.compile fails here, without it then: no compiler here" in said[-1]


def test_peft_that_is_missing_is_told_with_the_way_to_get_it(setting, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(rivals.importlib, "import_module", absent)

    with pytest.raises(rivals.RivalMissingError, match=r"pip install 'rootstock\[bench\]'"):
        rivals.peft_mixed(setting, [])
    assert "rootstock[bench]" in run("mixed", "--system", "peft", code=1)


def test_models_that_do_not_fit_in_memory_are_left_out(setting, monkeypatch):
    monkeypatch.setattr(rivals, "_free_bytes", lambda _: 1.0)

    with pytest.raises(rivals.RivalMissingError, match="do not fit"):
        rivals.WholeModels(setting, [setting.maker.make("alore", "task", 0, effect=False)])


def test_the_busy_process_ends_with_the_measurement():
    import subprocess

    started: list[subprocess.Popen] = []
    real = subprocess.Popen

    class Noted(real):
        def __init__(self, *a, **k):
            super().__init__(*a, **k)
            started.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rootstock.bench.setting.subprocess.Popen", Noted)
        with one_core_busy(True):
            assert started[0].poll() is None
        with one_core_busy(False):
            pass

    assert [p.poll() is not None for p in started] == [True]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mixed", "--dtype", "int8"), "--dtype is bf16 or fp32, not 'int8'"),
        (("mixed", "--system", "triton"), "--system is mixed, peft, swap, full, not 'triton'"),
        (("mixed", "--method", "mora"), "mora"),
        (("mixed", "--method", "lora:rank=0"), "rank"),
        (("tasks", "--popularity", "flat"), "--popularity is uniform, zipf, not 'flat'"),
        (("swap", "--device", "cuda:99"), "--device cuda:99"),
        (("merge", "--images", "absent"), "no such file or folder: absent"),
    ],
)
def test_a_mistake_is_one_line(small, words, said):
    assert said in run(*words, "--threads", 1, code=1).splitlines()[-1]


def test_a_method_without_a_place_on_the_backbone_is_a_mistake(tinies, monkeypatch):
    monkeypatch.setattr("adapters_store.backbone.load", lambda *_, **__: tinies["convnext"])

    said = run("memory", "--method", "lora", "--tasks", 1, "--threads", 1, code=1)

    assert "lora is not offered on convnext" in said.splitlines()[-1]
