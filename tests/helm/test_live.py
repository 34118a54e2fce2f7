"""The rendered chart on a real Ray cluster, deployed as KubeRay does, under a real Prometheus.

`make check-helm` runs this; a cluster takes a minute or two to start, so each serves many tests.
"""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.request import urlopen

import pytest
import yaml

from helm.tools.generate import CHART
from serving.launch import free_port, processes
from tests.helm.cluster import BIN, HERE, Cluster, answers, await_true, cluster
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
# What a calm scenario on one task, loaded before, does not do; all other panels must rise.
MAY_BE_ZERO = {
    "Refused before compute",
    "Inside and waiting",
    "Groups from doors",
    "Merged tasks",
    "Memory of merged weights",
    "Loads",
    "Releases taken away",
    "Store",
}

spec = importlib.util.spec_from_file_location("check", CHART / "files" / "check.py")
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)


def values(topology: str, port: int, collector: int) -> dict:
    """On top of the profile for CPUs; what happens now and then happens more often."""
    often = {"second_look_share": 0.2, "traces": "serving.traces:otlp", "traces_share": 0.2}
    where = {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": f"http://{HERE}:{collector}"}
    return {
        "settings": {"threads": 1, "port": port, **often, **TOPOLOGIES[topology]},
        "tokens": {"secret": "tokens"},
        "monitoring": MONITORED,
        "engine": {"scaling": SCALING, "env": [where]},
        "door": {"env": [where]},
    }


def but(given: dict, settings: dict, **scaling: object) -> dict:
    """Values with other settings and other words for Serve's scaling."""
    engine = {**given["engine"], "scaling": {**given["engine"]["scaling"], **scaling}}
    return {**given, "settings": {**given["settings"], **settings}, "engine": engine}


@pytest.fixture(scope="module")
def collector() -> Iterator[ThreadingHTTPServer]:
    """Where spans are sent; `seen` has what came."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.seen.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer((HERE, 0), Handler) as server:
        server.seen = []
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", params=TOPOLOGIES)
def live(render, request, collector, tmp_path_factory) -> Cluster:
    """A running application of the profile for CPUs, with one task."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "store").mkdir()
    (folder / "tokens").mkdir()
    (folder / "tokens" / "tokens").write_text(f"admin,predict {TOKEN} tester\n")
    given = values(request.param, free_port(), collector.server_port)
    collector.seen.clear()
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


def test_lines_of_replicas_are_what_kubectl_logs_shows(live):
    """On the output of `ray start`, each a JSON value that says which replica it is of."""
    said = "".join(file.read_text() for file in live.folder.glob("*.log"))
    lines = [json.loads(line) for line in said.splitlines() if line.startswith('{"')]

    assert {line["deployment"] for line in lines if "replica" in line} == set(
        live.rendered.deployments
    )


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


def figures(prometheus: str, query: str) -> list[float]:
    """What a panel would draw: a quantile of nothing is no number."""
    found = [float(series["value"][1]) for series in asked(prometheus, query)]
    return [figure for figure in found if math.isfinite(figure)]


def panels(live: Cluster) -> list[tuple[str, str]]:
    """Title and query, as Grafana would ask while it shows the last minutes."""
    board = live.rendered.one("ConfigMap", "-dashboard")["data"]["rootstock.json"]
    return [
        (panel["title"], target["expr"].replace("$job", ".*").replace("$__rate_interval", "1m"))
        for panel in json.loads(board)["panels"]
        for target in panel.get("targets", ())
    ]


def attacked(live: Cluster) -> dict:
    """A scenario of the load tester against the server, and its report."""
    run = [BIN / "rootstock", "loadtest", "attack", "steady", "--url", live.url, "--json"]
    run += ["--rate", "10", "--duration", "20", "--set", "warmup_s=2", "--token", TOKEN]
    run += ["--out", live.folder / "steady.hits.npz"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 4}, done.stderr  # 4: this machine was too busy to keep the rate
    return json.loads(done.stdout)


def test_after_a_scenario_every_panel_and_every_rule_has_its_data(live, prometheus):
    """No panel is empty: each query gives numbers, zeros where nothing happened."""
    report = attacked(live)
    queries = panels(live)
    await_true(
        lambda: all(figures(prometheus, query) for _, query in queries),
        60,
        lambda: [(title, query) for title, query in queries if not figures(prometheus, query)],
    )
    drawn = {title: 0.0 for title, _ in queries}
    for title, query in queries:
        drawn[title] += sum(figures(prometheus, query))
    rules = live.rendered.one("PrometheusRule")["spec"]["groups"]
    for rule in (rule for group in rules for rule in group["rules"]):
        asked(prometheus, rule["expr"])
        for selector in re.findall(r"(?:rootstock|ray)_\w+\{[^}]*\}", rule["expr"]):
            # Of what never happened there is no series: no refusal, no failed check.
            name = selector.partition("{")[0]
            if name not in {"rootstock_refusals_total", "rootstock_adapter_loads_total"}:
                assert asked(prometheus, selector), selector
    firing = asked(prometheus, 'ALERTS{alertstate="firing"}')

    assert (report["failed"], set(report["outcomes"])) == (0, {"ok"})
    assert {title for title, total in drawn.items() if not total} <= MAY_BE_ZERO
    assert {alert["metric"]["alertname"] for alert in firing} <= {"RootstockErrorBudgetBurnsFast"}
    samples = asked(prometheus, "count(rootstock_build_info)")
    assert float(samples[0]["value"][1]) == (2 if live.topology == "split" else 1)


def test_spans_of_requests_arrive_at_the_collector(live, collector):
    """By `settings.traces`, from the environment of the pods."""
    with Traffic(live.settings.port, TASK, check.picture()):
        await_true(lambda: collector.seen, 60)

    assert {path for path, _ in collector.seen} == {"/v1/traces"}


def test_a_change_of_settings_under_load_loses_no_request(live, render):
    """A limit, and the most replicas there may be, which counts with limits: all are replaced."""
    most = {"replicas": 3} if live.topology == "fused" else {}
    live.values = but(live.values, {"queue_max": 200, **most}, target_ongoing_requests=5)
    with Traffic(live.settings.port, TASK, check.picture()) as traffic:
        traffic.await_more(20)
        before = replicas(live)
        live.deploy(render(live.values, profile="cpu"))
        await_true(
            lambda: not before & replicas(live), 400, lambda: str(live.application())[-2000:]
        )
        live.await_running()
        traffic.await_more(20)

    assert traffic.failed == []
    assert traffic.answered > 40


def test_other_bounds_of_scaling_under_load_lose_no_request(live, render):
    """The fewest goes up and a replica comes; down, and one drains and leaves. None is replaced."""
    if live.topology == "split":
        pytest.skip("this cluster has one pod of a kind: nothing scales")
    counts = []
    with Traffic(live.settings.port, TASK, check.picture()) as traffic:
        for fewest in (2, 1):
            before = replicas(live)
            traffic.await_more(20)
            live.values = but(live.values, {}, min_replicas=fewest, downscale_delay_s=1)
            live.deploy(render(live.values, profile="cpu"))
            await_true(
                lambda fewest=fewest: len(replicas(live)) == len(listed(live)) == fewest,
                240,
                lambda: str(live.application())[-2000:],
            )
            live.await_running()
            traffic.await_more(20)
            counts.append((len(before), len(before & replicas(live))))

    assert counts == [(1, 1), (2, 1)]
    assert traffic.failed == []


def listed(live: Cluster) -> list[dict]:
    """Every replica, those that start or leave too."""
    return [r for d in live.application()["deployments"].values() for r in d["replicas"]]


def replicas(live: Cluster) -> set[str]:
    """Names of running replicas."""
    return {r["replica_id"] for r in listed(live) if r["state"] == "RUNNING"}


def test_a_pod_that_must_go_hands_its_replica_over_first(live):
    """SIGTERM to `ray start`, as before a pod ends: its replica moves, and no request is lost."""
    if live.topology == "split":
        pytest.skip("this cluster has one pod of a kind: there is nowhere to go")
    (pid,) = {r["pid"] for r in listed(live)}
    before = replicas(live)
    leaving = next(n for n in live.nodes.values() if pid in processes(n.process.pid))
    with Traffic(live.settings.port, TASK, check.picture()) as traffic:
        traffic.await_more(20)
        leaving.process.terminate()
        leaving.process.wait(180)
        traffic.await_more(20)

    assert not before & replicas(live)
    assert traffic.failed == []
