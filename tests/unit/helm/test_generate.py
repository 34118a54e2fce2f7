"""What the chart holds of the code: it is the code's own, and nothing is left to be forgotten."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from helm.tools import generate
from helm.tools.values import Values
from serving.app import ENVIRONMENT, INGRESS
from serving.config import Settings

CHART = generate.CHART
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def test_every_generated_file_is_what_the_code_says_now():
    """Whoever changes a setting or Ray's environment runs the generator."""
    stale = [p.name for p, text in generate.files().items() if p.read_text() != text]

    assert stale == [], "run `python -m helm.tools.generate`"


def test_the_check_names_the_files_that_differ(monkeypatch, tmp_path):
    """`--check` fails, and writes nothing."""
    file = tmp_path / "values.yaml"
    file.write_text("old")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "files", lambda: {file: "new"})
    monkeypatch.setattr("sys.argv", ["generate", "--check"])

    with pytest.raises(SystemExit, match=r"values\.yaml"):
        generate.main()
    assert file.read_text() == "old"
    monkeypatch.setattr("sys.argv", ["generate"])
    generate.main()

    assert file.read_text() == "new"


def test_the_schema_of_settings_is_the_servers_model():
    """Every field, and no other; names, kinds and bounds as pydantic has them."""
    ours = SCHEMA["definitions"]["Settings"]
    theirs = Settings.model_json_schema()

    assert ours["additionalProperties"] is False
    assert ours["properties"].keys() == theirs["properties"].keys() == Settings.model_fields.keys()
    for name, rule in theirs["properties"].items():
        for word in ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "pattern"):
            assert ours["properties"][name].get(word) == rule.get(word), (name, word)


def test_every_object_of_the_schema_refuses_what_it_does_not_name():
    """A word that is spelled wrong is an error, not a value that nobody reads."""
    open_ones = [
        name
        for name, rule in {**SCHEMA["definitions"], "": SCHEMA}.items()
        if rule.get("additionalProperties") is not False
    ]

    assert open_ones == []


def test_the_defaults_are_valid_values_and_the_models_own():
    """`values.yaml` says the same as the models, and passes schema and models."""
    found = yaml.safe_load((CHART / "values.yaml").read_text())

    jsonschema.validate(found, SCHEMA)
    assert Values.model_validate(found) == Values()


@pytest.mark.parametrize("profile", sorted(p.name for p in CHART.glob("values-*.yaml")))
def test_profiles_hold_values_that_the_models_know(profile):
    """Nothing in a profile is passed over in silence."""
    given = yaml.safe_load((CHART / profile).read_text())

    whole = merged(yaml.safe_load((CHART / "values.yaml").read_text()), given)
    jsonschema.validate(whole, SCHEMA)
    Values.model_validate(whole)


def merged(under: dict, over: dict) -> dict:
    """As Helm lays values over the defaults."""
    both = {k: merged(under[k], v) for k, v in over.items() if isinstance(under.get(k), dict)}
    return {**under, **over, **both}


def test_a_value_that_is_taken_away_is_missed():
    """Helm drops a default for which null is given, and templates would break in the dark."""
    whole = yaml.safe_load((CHART / "values.yaml").read_text())
    assert whole["engine"].pop("resources")

    with pytest.raises(jsonschema.ValidationError, match="'resources' is a required property"):
        jsonschema.validate(whole, SCHEMA)


def test_the_tables_of_ray_stand_in_the_chart_word_for_word():
    """What replicas check at start is what pods are given."""
    generated = json.loads((CHART / "files" / "generated.json").read_text())

    assert generated["environment"] == ENVIRONMENT
    assert generated["ingress"] == INGRESS
    assert generated["settings"] == Settings(store="").model_dump(mode="json", exclude={"store"})


def test_templates_name_no_variable_of_ray_but_what_follows_from_settings():
    """One table: a variable in a template would be a second one."""
    named = {
        name
        for file in (CHART / "templates").rglob("*")
        if file.is_file()
        for name in re.findall(r"RAY_[A-Za-z_]+", file.read_text())
    }

    assert named == {
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S",  # from two settings
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S",  # from the same
        "RAY_LOG_TO_STDERR",  # a pod's: on one machine a reader has them of Ray
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S",  # a pod's, not a server's
        "RAY_USAGE_STATS_ENABLED",  # of the job that trains, which runs no Serve
    }


def test_every_value_is_described_in_the_readme():
    """The table has a row for each leaf, with its default."""
    readme = (CHART / "README.md").read_text()

    for name in ("engine.overlap", "monitoring.rules.latencySeconds", "upgrade.type", "budget_s"):
        assert f"| `{name}` |" in readme
    assert Path(CHART / "README.md").read_text().count("begin: written by") == 2
