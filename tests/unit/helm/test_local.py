"""The chart's settings on a Ray cluster of one's own: two files from one values file."""

import subprocess
import sys

import pytest
import yaml
from pydantic import ValidationError

from helm.tools import local
from serving.app import check_environment
from serving.config import Settings


@pytest.mark.parametrize("ingress", ["haproxy", "python"])
def test_the_environment_is_what_replicas_check(ingress):
    """The same as a pod has."""
    settings = Settings(store="memory://", ingress=ingress)

    check_environment(settings, local.environment(settings))


def test_settings_that_are_none_are_refused():
    with pytest.raises(ValidationError, match="batch_maximum"):
        local.serve_config({"store": "x", "batch_maximum": 3})


def test_a_values_file_becomes_a_config_and_an_environment(tmp_path, monkeypatch):
    """A shell that sources one has every variable; Serve's file has the settings as they were."""
    values = {"settings": {"store": "s3://a b/c", "budget_s": 5, "load_s": 2.5}, "engine": {}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr("sys.argv", ["local", f"{tmp_path}/values.yaml", "--out", f"{tmp_path}/o"])

    local.main()

    config = yaml.safe_load((tmp_path / "o" / "serve.yaml").read_text())
    assert config["applications"][0]["args"] == values["settings"]
    assert config["http_options"]["request_timeout_s"] == 18
    say = f"{sys.executable} -c 'import os, json; print(json.dumps(dict(os.environ)))'"
    shell = ["sh", "-c", f". {tmp_path}/o/environment.sh; {say}"]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    found = yaml.safe_load(done.stdout)
    assert found.items() >= local.environment(Settings.model_validate(values["settings"])).items()
    assert found["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"] == "23"
    assert found["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == "120"
