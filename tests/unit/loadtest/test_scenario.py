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
    ],
)
def test_what_cannot_be_run_says_why(name, settings, fault):
    with pytest.raises(ScenarioError, match=fault):
        load(name, settings)


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text("[[[")

    with pytest.raises(ScenarioError, match="no TOML"):
        load(str(file))


def test_another_rate_keeps_the_proportions():
    arrivals = {"kind": "flash", "rate": 10, "peak_rate": 50, "at_s": 1}

    changed = at_rate(make_scenario(arrivals=arrivals), 4.0).arrivals

    assert (changed.rate, changed.peak_rate) == (4.0, 20.0)


def test_a_closed_loop_has_no_rate():
    with pytest.raises(TypeError):
        at_rate(make_scenario(arrivals={"kind": "closed", "clients": 1}), 4.0)


def test_a_scenario_travels_as_json():
    scenario = load("mixed-images")

    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario
