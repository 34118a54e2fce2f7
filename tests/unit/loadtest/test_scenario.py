"""Scenarios are refused with everything that is wrong, and settings go over files."""

import pytest

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario, at_rate
from loadtest.scenario_file import bundled, load
from tests.unit.loadtest.conftest import make_scenario


def test_every_bundled_scenario_is_one():
    wanted = [
        "churn",
        "fan-out",
        "flash-crowd",
        "many-tasks",
        "mixed-images",
        "overload",
        "skewed",
        "steady",
    ]

    assert list(bundled()) == wanted
    for name in wanted:
        scenario = load(name)
        assert scenario.name == name
        assert scenario.about


def test_settings_go_over_the_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('duration_s = 20\n[arrivals]\nkind = "poisson"\nrate = 3\n')

    scenario = load(
        str(file), ["arrivals.rate=7", "slo.latency_ms=50", 'tasks.names=["a"]', "about=some words"]
    )

    assert (scenario.name, scenario.duration_s) == ("mine", 20)
    assert scenario.arrivals.rate == 7
    assert scenario.slo.latency_ms == 50
    assert (scenario.tasks.names, scenario.about) == (("a",), "some words")


def test_all_faults_are_said_at_once(tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text('seed = -1\n[arrivals]\nkind = "poisson"\nrate = 0\nrat = 1\n')

    with pytest.raises(ScenarioError) as caught:
        load(str(file))

    text = str(caught.value)
    assert "seed" in text
    assert "arrivals.poisson.rate" in text or "arrivals.rate" in text
    assert "rat" in text


@pytest.mark.parametrize(
    ("name", "settings", "fault"),
    [
        ("no-such", [], "bundled are churn"),
        ("steady", ["slo.limits={p98_ms=1}"], "no figure p98_ms; there are p50_ms"),
        ("steady", ["nonsense"], "key=value"),
        ("steady", ["name.x=1"], "name is no table"),
        ("steady", ["warmup_s=60"], "warmup_s is to be less"),
        ("fan-out", ['target.kind="plain"'], "fan_out needs"),
        ("churn", ['target.kind="oip"'], "churn needs"),
        ("churn", ["churn.publish_every_s=1"], "need `artifacts`"),
        ("steady", ['tasks.pattern="t"', "tasks.count=3"], "one place for a number"),
        ("steady", ['checks.labels="file"'], "go together"),
        ("steady", ["tasks.popularity.kind='trace'"], "go together"),
        ("steady", ["ratee=3"], "ratee: there is no such setting"),
        ("steady", ["slo.limits={wrong=nan}"], "no number for wrong"),
        ("steady", ['tasks.names=["a","a"]'], "given twice"),
        ("steady", ['target.headers={"a b"="c"}'], "no header"),
        ("steady", ['target.headers={a="b\\r\\nc"}'], "no header"),
        ("steady", ['target.headers={Content-Length="3"}'], "follows from the body"),
        ("steady", ['target.path="predict"'], "begins with /"),
        ("steady", ['target={kind="plain",body="template"}'], "go together"),
        (
            "steady",
            ['target={kind="plain",path="/x"}', "tasks.unknown_share=0.1"],
            "needs a {task}",
        ),
        ("skewed", ['arrivals={kind="closed",clients=1}'], "a closed loop has none"),
        (
            "steady",
            ['arrivals={kind="burst",rate=1,peak_rate=2,every_s=1e-5,for_s=1e-6}'],
            "more than 100000 bursts",
        ),
    ],
)
def test_what_cannot_be_run_says_why(name, settings, fault):
    with pytest.raises(ScenarioError, match=fault):
        load(name, settings)


@pytest.mark.parametrize(("data", "fault"), [(b"[[[", "no TOML"), (b"\xff\xfe", "no text")])
def test_a_file_that_is_no_toml_is_refused(tmp_path, data, fault):
    file = tmp_path / "x.toml"
    file.write_bytes(data)

    with pytest.raises(ScenarioError, match=fault):
        load(str(file))


def test_another_rate_keeps_the_proportions():
    arrivals = {"kind": "flash", "rate": 10, "peak_rate": 50, "at_s": 1}

    changed = at_rate(make_scenario(arrivals=arrivals), 4.0).arrivals

    assert (changed.rate, changed.peak_rate) == (4.0, 20.0)


@pytest.mark.parametrize("rate", [-1.0, 0.0, float("nan"), float("inf")])
def test_another_rate_is_a_rate(rate):
    with pytest.raises(ValueError, match="rate"):
        at_rate(make_scenario(), rate)


def test_a_closed_loop_has_no_rate():
    with pytest.raises(TypeError):
        at_rate(make_scenario(arrivals={"kind": "closed", "clients": 1}), 4.0)


def test_a_scenario_travels_as_json():
    scenario = load("mixed-images")

    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario
