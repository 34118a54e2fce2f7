"""The image's recipe: read by a linter, made of what CI installs, nothing more, nothing less."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helm.conftest import tool

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_a_linter_finds_nothing():
    tool("helm")  # asked for by `make check-helm` alone
    linter = Path(sys.executable).parent / "hadolint"

    done = subprocess.run(
        [linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout


def test_the_image_and_ci_install_by_the_same_script():
    """Packages at the locked versions, then the project; the Makefile's rule says the same."""
    rule = (ROOT / "Makefile").read_text()

    for step in ("packages", "project"):
        assert f".ci/install {step}" in DOCKERFILE
        assert f".ci/install {step}" in rule


def test_the_image_can_send_spans():
    """`settings.traces` names an exporter that is an extra of the project."""
    runs = re.findall(r"--requirement pyproject.toml(.*)", (ROOT / ".ci" / "install").read_text())

    assert runs == [" --extra tracing"] * 2


def test_nobody_is_root_and_health_is_asked_for():
    last = DOCKERFILE.rpartition("FROM")[2]

    assert re.search(r"^USER 1000:1000$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert "/readyz" in last


def test_the_context_is_what_the_wheel_is_built_from():
    """Everything that the build reads is let through, and nothing else."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert lines[1] == "*"
    assert set(wheel) <= let_in
    assert let_in - set(wheel) == {
        ".ci/install",
        "pyproject.toml",
        "requirements.lock",
        "hatch_build.py",
        project["project"]["readme"],
        *project["project"]["license-files"],
    }
    assert all((ROOT / name).exists() for name in let_in)


@pytest.mark.parametrize("line", re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE))
def test_what_is_copied_exists(line):
    *sources, _ = line.split()

    assert all((ROOT / source).exists() for source in sources)


def test_without_two_packages_hashes_every_version_of_the_lock_stays(tmp_path):
    """What the CPU variant makes of the lock, by the script's own line."""
    script = (ROOT / ".ci" / "install").read_text()
    program = re.search(r"awk '(.+?)'", script)[1]
    lock = ROOT / "requirements.lock"

    done = subprocess.run(["awk", program, lock], capture_output=True, text=True, check=True)

    pins = re.compile(r"^([a-z0-9_.-]+==\S+)", re.MULTILINE)
    assert pins.findall(done.stdout) == pins.findall(lock.read_text())
    for name, hashed in (("torch", False), ("torchvision", False), ("ray", True)):
        pinned = re.search(rf"^{name}==\S+(.*)\n(.*)", done.stdout, re.MULTILINE)
        assert ("--hash" in pinned[2], pinned[1] == " \\") == (hashed, hashed)
