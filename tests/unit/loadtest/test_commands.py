"""The commands print, write, and end with the exit code that a run deserves."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from loadtest.environment import environment, published
from loadtest.hits import write
from rootstock.main import app
from tests.unit.loadtest.conftest import make_hits, make_scenario


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run `rootstock loadtest …` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["loadtest", *map(str, words)])


@pytest.fixture
def kept(tmp_path):
    def keep(name="x.npz", latency=(10.0,) * 100, **how):
        write(make_hits(latency, **how), tmp_path / name)
        return tmp_path / name

    return keep


def test_a_report_is_text_json_and_a_page(command, kept, tmp_path):
    file = kept()

    text = command("report", file, "--html", "x.html")
    value = command("report", file, "--json")

    assert (text.exit_code, value.exit_code) == (0, 0)
    assert "within 100 ms 10.0 (100.00%)" in text.output
    assert json.loads(value.output)["latency_ms"]["p99"] == pytest.approx(10.0)
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "how", "code"),
    [
        (["--limit", "p99_ms=20"], {}, 0),
        (["--limit", "p99_ms=5"], {}, 3),
        (["--limit", "goodput=11", "--limit", "p99_ms=50"], {}, 3),
        ([], {"lag_ms": 50.0}, 4),
        ([], {"interrupted": True}, 130),
        (["--limit", "p98=5"], {}, 1),
        (["--limit", "p99_ms"], {}, 1),
    ],
)
def test_exit_codes_are_for_ci(command, kept, words, how, code):
    assert command("report", kept(**how), *words).exit_code == code


def test_two_runs_are_compared(command, kept):
    scenario = make_scenario(duration_s=60.0)
    rng = np.random.default_rng(0)
    a = kept("a.npz", rng.gamma(4.0, 10.0, 900), scenario=scenario)
    b = kept("b.npz", rng.gamma(4.0, 20.0, 900), scenario=scenario)

    same, worse = command("compare", a, a), command("compare", a, b, "--worse-by", "0.3")
    value = command("compare", a, b, "--json")

    assert (same.exit_code, worse.exit_code) == (0, 3)
    assert "no difference shown" in same.output
    assert "WORSE: p50 ms" in worse.output
    assert json.loads(value.output)["schema"] == "rootstock-loadtest-comparison/1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "nothing.npz"], "no such file"),
        (["attack", "no-such-scenario"], "bundled are churn"),
        (["attack", "--set", "seed=-1"], "seed: Input should be greater"),
        (["attack", "--set", "arrivals={kind='closed',clients=1}", "--rate", "3"], "have no rate"),
        (["attack", "--out", "no/where/x.npz"], "no such"),
        (["attack", "--url", "ftp://x"], "http:// or https://"),
        (["attack", "--url", "http://127.0.0.1:1"], "no answer (connect)"),
        (["attack", "--url", "http://a..b"], "label"),
        (["attack", "--url", "http://h?a=b"], "no ?"),
        (["attack", "--rate", "-5"], "-5 requests a second are no rate"),
        (["attack", "--rate", "nan"], "are no rate"),
        (["attack", "--duration", "-1"], "duration_s: Input should be greater than 0"),
        (["attack", "--html", "no/where/x.html"], "no such file or folder: no/where"),
        (["attack", "--out", "."], "is a folder"),
        (["attack", "--set", "ratee=1"], "ratee: there is no such setting"),
        (["saturate", "--out", "no/where/x.json"], "no such file or folder: no/where"),
        (["saturate", "flash-crowd"], "its crowd comes at 21 s"),
        (["saturate", "--set", "arrivals={kind='closed',clients=1}"], "no rate to search for"),
    ],
)
def test_a_mistake_is_one_line(command, words, said):
    found = command(*words)

    assert found.exit_code == 1
    assert said in found.output
    assert "Traceback" not in found.output


@pytest.mark.parametrize(
    "word",
    [
        "target.headers.X-Tenant=s3cret",
        "target={headers={A='s3cret'}}",
        "target.headers={A='s3cret'}",
    ],
)
def test_a_token_is_written_nowhere(monkeypatch, word):
    words = ["--token", "s3cret", "--api-key=s3cret", "http://u:s3cret@h", "--set", word]
    monkeypatch.setattr("sys.argv", ["x", *words, f"--set={word}"])
    scenario = make_scenario(
        target={"url": "http://u:s3cret@h", "headers": {"Authorization": "Bearer s3cret"}}
    )

    assert "s3cret" not in json.dumps([environment(), published(scenario)])
