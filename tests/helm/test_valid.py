"""Every rendered object is what its kind wants: by Kubernetes' schemas, KubeRay's, Prometheus'."""

import copy
import json
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from helm.tools import dashboard
from helm.tools.generate import CHART
from tests.helm.conftest import EVERYTHING, PROFILES, RefusedError, tool

# Not Kubernetes' own: validated below, or by their fields in the other files.
FOREIGN = {"RayService", "RayJob", "HTTPRoute", "ScrapeConfig", "PodMonitor", "PrometheusRule"}
KUBERNETES = ("1.27", "1.37")  # the oldest that Chart.yaml names, and the newest that is known


@pytest.fixture(scope="module")
def crd(shared):
    """KubeRay's schema of a RayService, closed: a field that it does not name is refused."""
    file = shared / "k8s" / "ray.io_rayservices.yaml"
    if not file.exists():
        pytest.skip(f"KubeRay's definition is not at {file}")
    versions = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = [
        v["schema"]["openAPIV3Schema"] for v in versions["spec"]["versions"] if v["name"] == "v1"
    ]
    return closed(schema)


def closed(schema):
    """The same schema, in which objects with named fields allow no others."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {k: closed(v) for k, v in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and schema["properties"]:
        schema.setdefault("additionalProperties", False)
    return schema


def test_kubernetes_takes_every_object_of_its_own(each):
    for thing in each.objects:
        if thing["kind"] not in FOREIGN:
            for version in KUBERNETES:
                kubernetes_validate.validate(thing, version, strict=True)


def test_kubernetes_takes_every_pod_that_ray_starts(each):
    """Ray's objects hold pod templates, which are Kubernetes' own."""
    templates = [g["template"] for g in each.groups.values()]
    jobs = (job["spec"]["rayClusterSpec"] for job in each.of("RayJob"))
    templates += [cluster["headGroupSpec"]["template"] for cluster in jobs]

    for template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
        pod["metadata"]["name"] = "pod"
        kubernetes_validate.validate(pod, KUBERNETES[-1], strict=True)


@pytest.mark.shared
def test_kuberay_takes_the_rayservice(each, crd):
    metadata = each.one("RayService")["metadata"]

    found = Draft202012Validator(crd).iter_errors({**each.one("RayService"), "metadata": {}})
    assert [error.message for error in found] == []
    assert len(metadata["name"]) <= 40


@pytest.mark.shared
def test_kuberay_takes_the_cluster_of_the_job(render, crd):
    """A RayJob's cluster is the same kind of value as a RayService's."""
    cluster = render(EVERYTHING).one("RayJob")["spec"]["rayClusterSpec"]

    wanted = crd["properties"]["spec"]["properties"]["rayClusterConfig"]
    assert [error.message for error in Draft202012Validator(wanted).iter_errors(cluster)] == []


@pytest.mark.shared
def test_a_field_that_kuberay_does_not_know_would_be_found(render, crd):
    """The closed schema refuses: KubeRay's own would let a wrong word pass."""
    wrong = copy.deepcopy(render().one("RayService"))
    wrong["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParam"] = {}

    (error,) = Draft202012Validator(crd).iter_errors({**wrong, "metadata": {}})
    assert "'rayStartParam' was unexpected" in error.message


@pytest.mark.parametrize("profile", PROFILES)
def test_helm_finds_nothing_to_say_against_a_profile(helm, profile):
    base = ("-f", f"{CHART}/{PROFILES[profile]}.yaml") if PROFILES[profile] else ()

    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), *base)


@pytest.fixture(scope="module")
def rules(render, tmp_path_factory) -> Path:
    """The rules as Prometheus reads them."""
    file = tmp_path_factory.mktemp("rules") / "rules.yaml"
    file.write_text(yaml.safe_dump(render(EVERYTHING).one("PrometheusRule")["spec"]))
    return file


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [tool("promtool"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules(rules):
    said = promtool("check", "rules", str(rules))

    assert "SUCCESS: 16 rules found" in said


def test_prometheus_reads_every_panels_query(tmp_path):
    """Each as a rule, because `promtool` checks those."""
    queries = [
        target["expr"].replace("$__rate_interval", "1m")
        for panel in dashboard.built()["panels"]
        for target in panel.get("targets", ())
    ]
    rules = [
        {"record": "panel", "expr": query, "labels": {"i": str(i)}}
        for i, query in enumerate(queries)
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    assert f"SUCCESS: {len(queries)} rules found" in promtool("check", "rules", str(file))


def test_prometheus_takes_the_scrape(render, tmp_path):
    """The file of the ConfigMap is a configuration by itself; its one target is the Service."""
    scrape = render({"monitoring": {"scrape": {"kind": "ConfigMap"}}}).one("ConfigMap", "-scrape")
    (tmp_path / "prometheus.yaml").write_text(scrape["data"]["rootstock.yaml"])

    promtool("check", "config", str(tmp_path / "prometheus.yaml"))
    (job,) = yaml.safe_load(scrape["data"]["rootstock.yaml"])["scrape_configs"]
    (static,) = job["static_configs"]
    assert static["targets"] == ["demo-rootstock-serve-svc.vision.svc:8000"]
    assert job["metrics_path"] == "/metrics"


def test_alerts_fire_when_and_only_when_they_should(rules, tmp_path):
    """Prometheus' own unit tests, over invented series."""
    who = '{job="demo-rootstock",namespace="vision"%s}'
    stalls = "rootstock_event_loop_stall_seconds_bucket" + who % ',replica="a",le="%s"'
    series = {
        # Half of the calls are late, from the beginning.
        "rootstock_request_seconds_count" + who % ',outcome="ok"': "0+60x120",
        "rootstock_request_seconds_bucket" + who % ',outcome="ok",le="0.25"': "0+30x120",
        # One replica stands still at 5.
        "rootstock_generation" + who % ',replica="a"': "5+1x120",
        "rootstock_generation" + who % ',replica="b"': "5x120",
        "rootstock_effect_failures_total" + who % ',replica="a"': "0x60 1x60",
        "rootstock_refusals_total" + who % ',reason="overloaded"': "0x60 0+30x60",
        "rootstock_replicas_expected" + who % "": "2x120",
        "rootstock_replicas_scraped" + who % "": "2x60 1x60",
        "rootstock_build_info" + who % "": "1x120",
        stalls % "0.05": "0x120",
        stalls % "0.5": "0+10x120",
        stalls % "+Inf": "0+10x120",
        "rootstock_quarantined_releases" + who % ',replica="a"': "0x60 1x60",
    }
    early = {"RootstockErrorBudgetBurnsFast", "RootstockGenerationLags", "RootstockEventLoopStalls"}
    early |= {"RootstockErrorBudgetBurns"}
    late = early | {"RootstockEffectCheckFailed", "RootstockRefuses", "RootstockReplicaMissing"}
    late |= {"RootstockReleaseQuarantined"}
    alerts = [
        rule["alert"]
        for group in yaml.safe_load(rules.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    counted = 'count by (alertname) (ALERTS{alertstate="firing"})'
    tests = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in series.items()],
                "promql_expr_test": [
                    {
                        "expr": counted,
                        "eval_time": when,
                        "exp_samples": [
                            {"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing
                        ],
                    }
                    for when, firing in (("55m", sorted(early)), ("72m", sorted(late)))
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(json.dumps(tests))

    promtool("test", "rules", str(tmp_path / "test.yaml"))
    assert late <= set(alerts)


def test_nothing_at_all_is_an_alert_too(rules, tmp_path):
    """Without a single series there is one alert: nothing is scraped."""
    expected = {"labels": '{alertname="RootstockNotScraped"}', "value": 1}
    expr = 'count by (alertname) (ALERTS{alertstate="firing"})'
    test = {"promql_expr_test": [{"expr": expr, "eval_time": "10m", "exp_samples": [expected]}]}
    other = [{"series": 'up{job="other"}', "values": "1x20"}]
    whole = {"rule_files": [str(rules)], "tests": [{"input_series": other, **test}]}
    (tmp_path / "test.yaml").write_text(json.dumps(whole))

    promtool("test", "rules", str(tmp_path / "test.yaml"))


INCREMENTAL = {"type": "NewClusterWithIncrementalUpgrade"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"settings": {"batch_maximum": 3}}, r"settings.*batch_maximum is not allowed"),
        ({"settings": {"batch_max": 0}}, r"settings\.batch_max.*greater than or equal to 1"),
        ({"settings": {"dtype": "fp16"}}, r"settings\.dtype must be one of"),
        ({"settings": {"slots": 8, "batch_max": 9}}, "slots must be at least settings.batch_max"),
        ({"settings": {"doors": 2}}, "doors needs settings.topology split"),
        ({"settings": {"merged_pin": ["a"]}}, "merged_pin needs settings.merged_bytes"),
        ({"settings": {"threads": 0}}, "settings.threads must be set"),
        ({"settings": {"store": "file:///tmp/x"}}, "settings.store"),
        ({"settings": {"store": "http://x"}}, "settings.store"),
        ({"settings": {"host": "127.0.0.1"}}, "settings.host must be 0.0.0.0"),
        ({"settings": {"tokens": [{"sha256": "a" * 64, "scopes": []}]}}, "tokens.secret"),
        ({"settings": {"backbone": "vit_base_patch16_224"}}, "is not bundled"),
        ({"settings": {"weights": "/x"}}, "needs weights.source"),
        ({"weights": {"source": "volume"}}, "needs settings.weights"),
        ({"weights": {"source": "hub", "cache": "1Gi"}}, "cache is not allowed"),
        ({"engine": {"overlap": False}}, "would wait for room for ever"),
        ({"settings": {"device": "cuda"}}, "would wait for room for ever"),
        ({"image": {"tag": 1}}, r"image\.tag.*string"),
        ({"image": {"digest": "sha256:1"}}, r"image\.digest.*pattern"),
        ({"upgrade": INCREMENTAL}, "gatewayClassName"),
        ({"upgrade": {**INCREMENTAL, "gatewayClassName": "x"}}, "needs settings.autoscale"),
        (
            {
                "upgrade": {**INCREMENTAL, "gatewayClassName": "x"},
                "settings": {"autoscale": True},
            },
            "ingress, httpRoute, monitoring.scrape and test",
        ),
        ({"drainSeconds": 29}, "drainSeconds must be at least settings.budget_s, 30"),
        ({"upgrade": {"deletionDelaySeconds": 69}}, "deletionDelaySeconds must be at least 70"),
        ({"settings": {"port": 9101}}, "settings.port must be another"),
        ({"settings": {"port": "8000"}}, r"settings\.port.*integer"),
        ({"settings": []}, r"settings.*object"),
        ({"settings": None}, "settings is required"),
        ({"engine": {"scaling": None}}, "engine: scaling is required"),
        ({"settings": {"store": None}}, "settings: store is required"),
        ({"settings": {"traces": "a b"}}, r"settings\.traces.*pattern"),
        ({"engine": {"disruption": {"maxUnavailable": "25%"}}}, r"maxUnavailable.*integer"),
        ({"engine": {"scaling": {"max_replicas": 3}}}, r"max_replicas is not allowed"),
        ({"head": {"scaling": {}}}, r"scaling is not allowed"),
        ({"tolerations": []}, "tolerations is not allowed"),
        ({"engine": {"tolerations": {}}}, r"engine\.tolerations.*array"),
        ({"networkPolicy": {"clients": "all"}}, r"networkPolicy\.clients.*array"),
        ({"nameOverride": "Upper"}, r"nameOverride.*pattern"),
        ({"upgrade": {"type": "Recreate"}}, r"upgrade\.type must be one of"),
        ({"monitoring": {"rules": {"latencySeconds": 0.3}}}, "latencySeconds must be one of"),
        ({"monitoring": {"scrape": {"kind": "ServiceMonitor"}}}, "kind must be one of"),
        ({"ingress": {"enabled": True}}, "ingress needs hosts"),
        ({"httpRoute": {"enabled": True}}, "httpRoute needs parentRefs"),
        ({"trainJob": {"enabled": True}}, "trainJob needs task"),
        (
            {
                "trainJob": {"enabled": True, "task": "a", "claim": "b"},
                "settings": {"backbone_kwargs": {"img_size": 32}},
            },
            "takes no settings.backbone_kwargs",
        ),
        ({"trainJob": {"task": "a; rm"}}, r"trainJob\.task.*pattern"),
        ({"trainJob": {"arguments": ["$(x)"]}}, r"trainJob\.arguments"),
        ({"replicas": 3}, "replicas is not allowed"),
        (
            {"settings": {"autoscale": True}, "engine": {"scaling": {"min_replicas": 2}}},
            "more than the most",
        ),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_refused_in_words(render, values, said):
    """Before anything reaches a cluster, and by the value's name."""
    with pytest.raises(RefusedError) as caught:
        render(values)

    assert re.search(said, " ".join(str(caught.value).split())), str(caught.value)
