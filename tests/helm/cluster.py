"""A Ray cluster on this machine, started as the chart's pods start it: one process tree a pod.

What differs is only what pods have for themselves and processes on one machine must share out:
addresses, ports, folders. Everything else is read from the rendered RayService.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from serving.app import ENVIRONMENT, INGRESS, ONE_MACHINE, RunPaths, environment
from serving.config import Settings
from serving.launch import free_port, reserve, sweep

BIN = Path(sys.executable).parent
HERE = "127.0.0.1"
# Of the variables of one machine: those that a busy one needs, not those that make stopping quick.
PATIENT = ("RAY_AUTH_MODE", "RAY_raylet_start_wait_time_s", "RAY_memory_monitor_refresh_ms")


@dataclass
class Cluster:
    """Nodes by name, and where they are reached."""

    folder: Path
    settings: Settings
    rendered: Any
    paths: RunPaths
    gcs: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    nodes: dict[str, "Node"] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{HERE}:{self.settings.port}"

    @property
    def mounts(self) -> Mapping[str, str]:
        """Folders of a pod, and what stands for them here."""
        return {"/store": f"{self.folder}/store", "/etc/rootstock": str(self.folder)}

    def environment(self, group: str) -> dict[str, str]:
        """The variables of a pod's container, and what is a machine's own."""
        container = self.rendered.pods[group]["containers"][0]
        given = {v["name"]: v["value"] for v in container["env"] if v["name"] != "HOME"}
        shared = {**ENVIRONMENT, **INGRESS[self.settings.ingress], **ONE_MACHINE}
        name = f"{group}{len(self.nodes)}"
        folder = self.paths.folder / name
        folder.mkdir(exist_ok=True)
        own = environment(self.settings, RunPaths(folder, self.paths.ports))
        own = {k: v for k, v in own.items() if k.startswith("RAY_") and k not in shared | given}
        # Two HAProxies share a port by SO_REUSEPORT; in pods each has an address of its own.
        outside = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        here = {name: ONE_MACHINE[name] for name in PATIENT}
        return {**outside, **own, **given, **here, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def start(self, group: str) -> "Node":
        """One pod of a group: `ray start` with the group's parameters."""
        from ray.util import get_node_ip_address  # seconds, and most runs skip all of this

        spec = self.rendered.groups[group]
        env = self.environment(group)
        ports = {
            "metrics-export-port": free_port(),
            "dashboard-agent-listen-port": free_port(),
            "dashboard-agent-grpc-port": free_port(),
            "runtime-env-agent-port": free_port(),
            "min-worker-port": 0,
            "max-worker-port": 0,
        }
        given = dict(spec["rayStartParams"])
        if "resources" in given:  # the quotes are for a shell
            (given["resources"],) = shlex.split(given["resources"])
        if group == "head":
            place = {"port": self.gcs, "dashboard-port": self.dashboard, "dashboard-host": HERE}
            place |= {"temp-dir": self.paths.folder, "ray-client-server-port": free_port()}
            first = ["--head"]
        else:
            place, first = {}, [f"--address={get_node_ip_address()}:{self.gcs}"]
        merged = {**given, **ports, **place}
        flags = [f"--{name}={value}" for name, value in merged.items()]
        log = (self.folder / f"{group}{len(self.nodes)}.log").open("w")
        process = subprocess.Popen(
            [BIN / "ray", "start", *first, *flags, "--block"],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        # A raylet gives its agent 15 s to start, and nothing can be set: it goes first.
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/autogroup").write_text("-12")
        node = Node(process, env, ports)
        self.nodes[f"{group}{len(self.nodes)}"] = node
        # One after the other: two that start at once on one machine may take one socket's name.
        alive = f"http://{HERE}:{ports['dashboard-agent-listen-port']}/api/local_raylet_healthz"
        await_true(lambda: answers(alive), 120, lambda: f"a node: {log.name}")
        return node

    def serve_config(self, rendered: Any = None) -> Path:
        """`serveConfigV2` as a file; paths of pods are this machine's."""
        text = json.dumps((rendered or self.rendered).serve)
        for inside, here in self.mounts.items():
            text = text.replace(inside, here)
        file = self.folder / "serve.yaml"
        file.write_text(text)
        return file

    def deploy(self, rendered: Any = None) -> None:
        """`serve deploy`, as KubeRay does it."""
        address = f"http://{HERE}:{self.dashboard}"
        run = [BIN / "serve", "deploy", self.serve_config(rendered), "--address", address]
        done = subprocess.run(
            run, env=self.nodes["head0"].env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def application(self) -> dict[str, Any]:
        """What Serve says of the application."""
        with urlopen(f"http://{HERE}:{self.dashboard}/api/serve/applications/", timeout=30) as r:
            return json.load(r)["applications"].get("rootstock", {})

    def await_running(self, timeout_s: float = 240) -> None:
        """Until Serve calls the application running, every replica being the wanted one."""
        said: Any = None

        def running() -> bool:
            nonlocal said
            said = self.application()
            assert said.get("status") != "DEPLOY_FAILED", said["message"]
            return said.get("status") == "RUNNING"

        await_true(running, timeout_s, lambda: str(said)[-3000:])

    def stop(self) -> None:
        """End every node, workers first; nothing is left."""
        for node in reversed(self.nodes.values()):
            node.stop()
        shutil.rmtree(self.paths.folder, ignore_errors=True)


@dataclass
class Node:
    """One pod's processes, which are one session."""

    process: subprocess.Popen
    env: dict[str, str]
    ports: dict[str, int]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        sweep(self.process.pid)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def cluster(rendered: Any, folder: Path) -> Iterator[Cluster]:
    """A cluster with one node for each group, and no application yet."""
    settings = Settings.model_validate(rendered.serve["applications"][0]["args"])
    paths, anchor = reserve(settings)
    made = Cluster(folder, settings, rendered, paths)
    try:
        made.start("head")
        await_true(lambda: answers(f"http://{HERE}:{made.dashboard}/api/version"), 120)
        for group in rendered.groups:
            if group != "head":
                made.start(group)
        yield made
    finally:
        made.stop()
        anchor.close()


def answers(url: str) -> bool:
    """Whether a GET gives 200."""
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


def await_true(what, timeout_s: float, said=lambda: "") -> None:
    """Until something holds."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {said()}"
        time.sleep(0.2)
