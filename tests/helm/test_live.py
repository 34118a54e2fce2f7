"""The rendered chart on a real Ray cluster, deployed as KubeRay does, under a real Prometheus.

`make check-helm` runs this; a cluster takes a minute or two to start, so each serves many tests.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.parse
from urllib.request import urlopen

import pytest
import yaml

from helm.tools.generate import CHART
from serving.launch import free_port, processes
from tests.helm.cluster import HERE, Cluster, answers, await_true, cluster
from tests.helm.conftest import tool
from tests.helm.traffic import TOKEN, Traffic

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore"),  # Ray's
]
MONITORED = {
    "scrape": {"kind": "ConfigMap", "intervalSeconds": 1},
    "rules": {"enabled": True},
    "dashboard": {"enabled": True},
}
TOPOLOGIES = {
    # Two pods that can each hold one replica, of which one runs: where there is to go.
    "fused": {"replicas": 2, "autoscale": True},
    "split": {"topology": "split", "decode_threads": 1},
}
SCALING = {"min_replicas": 1, "upscale_delay_s": 600, "downscale_delay_s": 600}
TASK = "standing"

spec = importlib.util.spec_from_file_location("check", CHART / "files" / "check.py")
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)


def values(topology: str, port: int, **settings: object) -> dict:
    """On top of the profile for CPUs."""
    return {
        "settings": {"threads": 1, "port": port, **TOPOLOGIES[topology], **settings},
        "tokens": {"secret": "tokens"},
        "monitoring": MONITORED,
        "engine": {"scaling": SCALING},
    }


@pytest.fixture(scope="module", params=TOPOLOGIES)
def live(render, request, tmp_path_factory) -> Cluster:
    """A running application of the profile for CPUs, with one task."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "store").mkdir()
    (folder / "tokens").mkdir()
    (folder / "tokens" / "tokens").write_text(f"admin,predict {TOKEN} tester\n")
    given = values(request.param, free_port())
    with cluster(render(given, profile="cpu"), folder) as made:
        if request.param == "fused":
            made.start("engine")
        made.deploy()
        made.await_running()
        await_true(lambda: answers(f"{made.url}/readyz"), 60)
        check.ask(made.url, "PUT", f"/v1/tasks/{TASK}?wait=true", TOKEN, check.tiny(TASK))
        made.topology, made.values = request.param, given
        yield made


def test_helm_tests_own_script_passes(live):
    """As the pod of `helm test` runs it, with that pod's variables."""
    (container,) = live.rendered.one("Pod", "-test")["spec"]["containers"]
    env = {v["name"]: v["value"] for v in container["env"]}
    env["ROOTSTOCK_URL"] = live.url  # the Service's name means nothing here
    env["ROOTSTOCK_TOKEN_FILE"] = str(live.folder / "tokens" / "tokens")

    script = CHART / "files" / "check.py"
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line.split()[0] for line in done.stdout.splitlines()]
    assert steps == ["ready", "adapter", "published", "predicted", "retired", "all"]


def test_the_probes_of_pods_are_answered(live):
    """The very paths, on the ports that these nodes have instead."""
    for name, node in live.nodes.items():
        probes = live.rendered.pods[name.rstrip("0123456789")]["containers"][0]
        alive, ready = (probes[k]["httpGet"] for k in ("livenessProbe", "readinessProbe"))
        known = {8265: live.dashboard, 52365: node.ports["dashboard-agent-listen-port"]}
        for probe in (alive, ready):
            assert answers(
                f"http://{HERE}:{known.get(probe['port'], probe['port'])}{probe['path']}"
            )


def test_changing_tokens_needs_no_word_in_the_config(live):
    """The file of the secret is what lets in; without it nobody publishes."""
    with pytest.raises(SystemExit, match="401"):
        check.ask(live.url, "DELETE", f"/v1/tasks/{TASK}", "somebody else's token")

    assert TOKEN not in live.rendered.one("RayService")["spec"]["serveConfigV2"]


@pytest.fixture
def prometheus(live, tmp_path):
    """A real one, with the chart's scrape and rules; the target is this cluster."""
    scrape = live.rendered.one("ConfigMap", "-scrape")["data"]["rootstock.yaml"]
    config = yaml.safe_load(scrape)
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"{HERE}:{live.settings.port}"]
    pods = [f"{HERE}:{node.ports['metrics-export-port']}" for node in live.nodes.values()]
    ray = {"targets": pods, "labels": {"namespace": "vision"}}  # as a PodMonitor labels them
    config["scrape_configs"].append({"job_name": "ray", "static_configs": [ray]})
    rules = live.rendered.one("PrometheusRule")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    config |= {"rule_files": ["rules.yaml"]}
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    flags = [f"--config.file={tmp_path}/prometheus.yaml", f"--storage.tsdb.path={tmp_path}/data"]
    flags += [f"--web.listen-address={HERE}:{port}", "--log.level=warn"]
    with subprocess.Popen([tool("prometheus"), *flags]) as process:
        try:
            await_true(lambda: answers(f"http://{HERE}:{port}/-/ready"), 60)
            yield f"http://{HERE}:{port}"
        finally:
            process.terminate()


def asked(prometheus: str, query: str) -> list:
    """What a query gives now; an error of the query is an error of the test."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urlopen(url, timeout=30) as answer:
        found = json.load(answer)
    assert found["status"] == "success"
    return found["data"]["result"]


def test_every_panel_and_every_rule_finds_its_data(live, prometheus):
    """After some traffic no panel is empty, and every alert's metrics are there."""
    with Traffic(live.settings.port, TASK, check.picture()) as traffic:
        traffic.await_more(100)
        boards = live.rendered.one("ConfigMap", "-dashboard")["data"]["rootstock.json"]
        queries = [
            (panel["title"], target["expr"].replace("$job", ".*").replace("$__rate_interval", "1m"))
            for panel in json.loads(boards)["panels"]
            for target in panel.get("targets", ())
        ]
        await_true(
            lambda: all(asked(prometheus, q) for _, q in queries),
            60,
            lambda: [title for title, query in queries if not asked(prometheus, query)],
        )
        rules = live.rendered.one("PrometheusRule")["spec"]["groups"]
        for rule in (rule for group in rules for rule in group["rules"]):
            asked(prometheus, rule["expr"])
            for selector in re.findall(r"(?:rootstock|ray)_\w+\{[^}]*\}", rule["expr"]):
                # Of what never happened there is no series: no refusal, no failed check.
                name = selector.partition("{")[0]
                if name not in {"rootstock_refusals_total", "rootstock_adapter_loads_total"}:
                    assert asked(prometheus, selector), selector
        firing = asked(prometheus, 'ALERTS{alertstate="firing"}')

    assert traffic.failed == []
    assert {alert["metric"]["alertname"] for alert in firing} <= {"RootstockErrorBudgetBurnsFast"}
    samples = asked(prometheus, "count(rootstock_build_info)")
    assert float(samples[0]["value"][1]) == (2 if live.topology == "split" else 1)


def test_a_change_of_settings_under_load_loses_no_request(live, render):
    """A limit, which replaces every replica, and bounds of scaling, which replace none."""
    changed = values(live.topology, live.settings.port, queue_max=200, task_labels_max=50)
    changed["engine"] = {"scaling": {**SCALING, "target_ongoing_requests": 5}}
    with Traffic(live.settings.port, TASK, check.picture()) as traffic:
        traffic.await_more(20)
        before = replicas(live)
        live.deploy(render(changed, profile="cpu"))
        await_true(
            lambda: not before & replicas(live), 400, lambda: str(live.application())[-2000:]
        )
        live.await_running()
        traffic.await_more(20)
        if live.topology == "fused":
            between = replicas(live)
            changed["engine"] = {"scaling": {**SCALING, "target_ongoing_requests": 50}}
            live.deploy(render(changed, profile="cpu"))
            live.await_running()
            traffic.await_more(20)
            assert replicas(live) == between

    assert traffic.failed == []
    assert traffic.answered > 40


def replicas(live: Cluster) -> set[str]:
    """Names of running replicas."""
    deployments = live.application()["deployments"].values()
    return {r["replica_id"] for d in deployments for r in d["replicas"] if r["state"] == "RUNNING"}


def test_a_pod_that_must_go_hands_its_replica_over_first(live):
    """SIGTERM to `ray start`, as before a pod ends: its replica moves, and no request is lost."""
    if live.topology == "split":
        pytest.skip("this cluster has one pod of a kind: there is nowhere to go")
    (pid,) = {r["pid"] for r in live.application()["deployments"]["rootstock"]["replicas"]}
    before = replicas(live)
    leaving = next(n for n in live.nodes.values() if pid in processes(n.process.pid))
    with Traffic(live.settings.port, TASK, check.picture()) as traffic:
        traffic.await_more(20)
        leaving.process.terminate()
        leaving.process.wait(180)
        traffic.await_more(20)

    assert not before & replicas(live)
    assert traffic.failed == []
