"""The chart, rendered by the real Helm, and the tools that `make check-helm` brings."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.tools.generate import CHART

PROFILES = {p: f"values-{p}" for p in ("cpu", "gpu", "production")} | {"default": ""}
# Switches on whatever the chart can render.
EVERYTHING = {
    "settings": {"topology": "split", "doors": 2},
    "tokens": {"secret": "tokens"},
    "ingress": {"enabled": True, "hosts": ["rootstock.example.com"]},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
    "monitoring": {
        "scrape": {"kind": "ScrapeConfig"},
        "podMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboard": {"enabled": True},
    },
    "trainJob": {"enabled": True, "task": "flowers", "claim": "images"},
}


def tool(name: str) -> str:
    """A tool's path; `make check-helm` says where they are, and then none may be missing."""
    folder = os.environ.get("ROOTSTOCK_TOOLS")
    if not folder:
        pytest.skip("needs Helm and Prometheus: run `make check-helm`")
    found = Path(folder).resolve() / name
    assert found.exists(), f"{found} is missing: helm/tools/fetch.sh brings it"
    return str(found)


class RefusedError(Exception):
    """Helm would not render; the text is what it says."""


@dataclass(frozen=True)
class Rendered:
    """The objects of one rendering."""

    objects: Sequence[dict[str, Any]]

    def of(self, kind: str, name: str = "") -> list[dict[str, Any]]:
        """All of a kind, whose name ends so."""
        return [
            o for o in self.objects if o["kind"] == kind and o["metadata"]["name"].endswith(name)
        ]

    def one(self, kind: str, name: str = "") -> dict[str, Any]:
        """The only one."""
        (found,) = self.of(kind, name)
        return found

    @property
    def cluster(self) -> dict[str, Any]:
        return self.one("RayService")["spec"]["rayClusterConfig"]

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """Head and worker groups by name."""
        workers = {g["groupName"]: g for g in self.cluster["workerGroupSpecs"]}
        return {"head": self.cluster["headGroupSpec"], **workers}

    @property
    def pods(self) -> dict[str, dict[str, Any]]:
        """The pod specification of each group."""
        return {name: group["template"]["spec"] for name, group in self.groups.items()}

    def selected(self, selector: dict[str, Any]) -> set[str]:
        """The groups whose pods a selector finds."""
        wanted = selector["matchLabels"].items()
        return {
            name
            for name, group in self.groups.items()
            if wanted <= group["template"]["metadata"]["labels"].items()
        }

    @property
    def serve(self) -> dict[str, Any]:
        """What `serve deploy` would read."""
        return yaml.safe_load(self.one("RayService")["spec"]["serveConfigV2"])

    @property
    def deployments(self) -> dict[str, dict[str, Any]]:
        return {d["name"]: d for d in self.serve["applications"][0]["deployments"]}


@pytest.fixture(scope="session")
def helm(tmp_path_factory) -> Callable[..., str]:
    """Run Helm; what it prints."""
    binary = tool("helm")
    home = tmp_path_factory.mktemp("helm")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [binary, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HELM_CACHE_HOME": str(home), "HELM_CONFIG_HOME": str(home)},
        )
        if done.returncode:
            raise RefusedError(done.stdout + done.stderr)
        return done.stdout

    return run


@pytest.fixture(scope="session")
def render(helm, tmp_path_factory) -> Callable[..., Rendered]:
    """Render the chart with values on top of a profile; the same ones once."""
    folder, known = tmp_path_factory.mktemp("values"), {}

    def rendered(values: dict[str, Any] | None = None, profile: str = "default") -> Rendered:
        key = json.dumps([values, profile], sort_keys=True)
        if key not in known:
            file = folder / f"{len(known)}.yaml"
            file.write_text(yaml.safe_dump(values or {}))
            base = ("-f", f"{CHART}/{PROFILES[profile]}.yaml") if PROFILES[profile] else ()
            text = helm("template", "demo", str(CHART), "-n", "vision", *base, "-f", str(file))
            known[key] = Rendered([o for o in yaml.safe_load_all(text) if o])
        return known[key]

    return rendered


@pytest.fixture(params=[*PROFILES, "everything"])
def each(render, request) -> Rendered:
    """Every profile, and one with everything switched on."""
    if request.param == "everything":
        return render(EVERYTHING)
    return render(profile=request.param)
