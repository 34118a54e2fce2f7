"""What stands around the cluster: Service, ways in, policies, budgets, metrics, test, job."""

import base64
import json

import pytest

from helm.tools.generate import CHART
from tests.helm.conftest import EVERYTHING

SPLIT = {"settings": {"topology": "split"}}
OUTSIDE = {"/v1", "/v2", "/healthz", "/readyz", "/docs", "/openapi.json"}


def test_the_service_is_kuberays_and_keeps_its_name(render):
    """Named by KubeRay, so that an upgrade can move it; no name is given where that breaks it."""
    found = render({"service": {"type": "LoadBalancer", "annotations": {"a": "b"}}})

    service = found.one("RayService")["spec"]["serveService"]
    assert service["spec"] == {"type": "LoadBalancer"}
    assert service["metadata"]["annotations"] == {"a": "b"}
    assert "name" not in service["metadata"]
    assert "headService" not in found.cluster["headGroupSpec"]


def test_the_way_in_by_ingress_leads_to_the_api_alone(render):
    """/metrics and Serve's own paths are not among what is let through."""
    spec = render({"ingress": {"enabled": True, "hosts": ["a.b"], "className": "nginx"}}).one(
        "Ingress"
    )["spec"]

    (rule,) = spec["rules"]
    assert {p["path"] for p in rule["http"]["paths"]} == OUTSIDE
    assert {p["pathType"] for p in rule["http"]["paths"]} == {"Prefix"}
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "demo-rootstock-serve-svc", "port": {"number": 8000}}
    assert spec["ingressClassName"] == "nginx"


def test_the_way_in_by_gateway_leads_to_the_same(render):
    route = {"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["a.b"]}

    spec = render({"httpRoute": route}).one("HTTPRoute")["spec"]

    (rule,) = spec["rules"]
    assert {m["path"]["value"] for m in rule["matches"]} == OUTSIDE
    assert {m["path"]["type"] for m in rule["matches"]} == {"PathPrefix"}
    assert rule["backendRefs"] == [{"name": "demo-rootstock-serve-svc", "port": 8000}]
    assert rule["timeouts"] == {"request": "75s"}
    assert (spec["parentRefs"], spec["hostnames"]) == ([{"name": "g"}], ["a.b"])


def test_documentation_can_be_kept_inside(render):
    values = {"ingress": {"enabled": True, "hosts": ["a.b"], "documentation": False}}

    (rule,) = render(values).one("Ingress")["spec"]["rules"]

    assert {p["path"] for p in rule["http"]["paths"]} == OUTSIDE - {"/docs", "/openapi.json"}


def test_only_who_has_business_there_reaches_a_port(render):
    """Clients: the API. The operator: the dashboard. Prometheus: metrics. Others: nothing."""
    peers = {name: [{"podSelector": {"matchLabels": {"is": name}}}] for name in ("a", "b", "c")}
    found = render(
        {"networkPolicy": {"clients": peers["a"], "operator": peers["b"], "prometheus": peers["c"]}}
    )

    policy = found.one("NetworkPolicy")["spec"]
    among, clients, operator, prometheus = policy["ingress"]
    assert "ports" not in among
    assert [peer["podSelector"] for peer in among["from"]] == [policy["podSelector"]]
    assert (clients["from"], clients["ports"]) == (peers["a"], [{"port": 8000}])
    assert operator["from"] == peers["b"]
    assert {p["port"] for p in operator["ports"]} == {8265, 52365, 8000}
    assert prometheus["from"] == peers["c"]
    assert {p["port"] for p in prometheus["ports"]} == {8000, 8080, 9101, 44217, 44227}
    reached = {p["port"] for rule in policy["ingress"] for p in rule.get("ports", ())}
    assert reached.isdisjoint({10001, 6379, 8404})
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert found.selected(policy["podSelector"]) == {"head", "engine"}


def test_no_peer_named_means_everybody_for_clients_and_nobody_for_others(render):
    none = {"clients": [], "operator": [], "prometheus": [], "egress": []}

    policy = render({"networkPolicy": none}).one("NetworkPolicy")["spec"]

    assert policy["ingress"][1:] == [{"ports": [{"port": 8000}]}]
    assert len(policy["egress"]) == 2
    assert render({"networkPolicy": {"enabled": False}}).of("NetworkPolicy") == []


@pytest.mark.parametrize("redis", ["redis://r:6379", "r", "rediss://a:7000,b:7001"])
def test_the_redis_that_keeps_rays_state_can_be_reached(render, redis):
    """Else the policy would cut the head off from it, and nothing would start."""
    found = render({"faultTolerance": {"redisAddress": redis}}).one("NetworkPolicy")["spec"]

    wanted = [7000, 7001] if "7000" in redis else [6379]
    assert {"ports": [{"port": port} for port in wanted]} in found["egress"]


def test_the_account_says_which_identity_pods_have(render):
    role = {"eks.amazonaws.com/role-arn": "arn"}

    found = render({"serviceAccount": {"annotations": role}})

    account = found.one("ServiceAccount")
    assert account["metadata"]["annotations"] == role
    assert {p["serviceAccountName"] for p in found.pods.values()} == {account["metadata"]["name"]}
    other = render({"serviceAccount": {"create": False, "name": "theirs"}})
    assert other.of("ServiceAccount") == []
    assert other.pods["head"]["serviceAccountName"] == "theirs"


def test_all_replicas_are_one_target(render):
    """Any door answers for all: a scrape of each pod would count everything several times."""
    found = render({"monitoring": {"scrape": {"kind": "ScrapeConfig", "labels": {"r": "p"}}}})

    scrape = found.one("ScrapeConfig")
    (static,) = scrape["spec"]["staticConfigs"]
    assert static["targets"] == ["demo-rootstock-serve-svc.vision.svc:8000"]
    assert static["labels"] == {"job": "demo-rootstock", "namespace": "vision"}
    assert scrape["metadata"]["labels"]["r"] == "p"
    assert render().of("ScrapeConfig") == []


def test_pods_are_asked_for_rays_ports_alone(render):
    """Never for the Service's, which would be every replica's numbers once a pod."""
    monitor = render(EVERYTHING).one("PodMonitor")["spec"]

    ports = {e["port"] for e in monitor["podMetricsEndpoints"]}
    assert ports == {"metrics", "haproxy-metrics", "as-metrics", "dash-metrics"}
    named = {p["name"] for p in render(EVERYTHING).pods["head"]["containers"][0]["ports"]}
    assert ports <= named


def test_rules_follow_the_level_that_was_promised(render):
    """Objective, edge and limits are values."""
    rules = {"enabled": True, "objectivePercent": 99, "latencySeconds": 1, "lagSeconds": 30}
    rules |= {"refusedPercent": 2, "stallSeconds": 0.05}
    spec = render({"monitoring": {"rules": rules}}).one("PrometheusRule")["spec"]

    text = json.dumps(spec)
    found = {r.get("alert", r.get("record")): r["expr"] for g in spec["groups"] for r in g["rules"]}
    assert 'le=\\"1.0\\"' in text
    assert "> 0.144" in found["RootstockErrorBudgetBurnsFast"]
    assert "offset 30s" in found["RootstockGenerationLags"]
    assert found["RootstockRefuses"].strip().endswith("> 0.02")
    assert found["RootstockEventLoopStalls"].strip().endswith("> 0.05")
    every = [r for g in spec["groups"] for r in g["rules"] if "alert" in r]
    assert all(r["labels"]["severity"] in {"warning", "critical"} for r in every)
    assert all(r["annotations"].keys() == {"summary", "description"} for r in every)


def test_the_dashboard_is_the_generated_one(render):
    board = render({"monitoring": {"dashboard": {"enabled": True}}}).one("ConfigMap", "-dashboard")

    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    wanted = json.loads((CHART / "files" / "dashboard.json").read_text())
    assert json.loads(board["data"]["rootstock.json"]) == wanted


def test_helm_test_runs_the_script_with_the_servers_own_backbone(render):
    found = render({"tokens": {"secret": "keys"}, "test": {"timeoutSeconds": 7}})

    pod = found.one("Pod", "-test")
    (container,) = pod["spec"]["containers"]
    env = {v["name"]: v["value"] for v in container["env"]}
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert container["command"] == ["python", "/etc/rootstock/scripts/check.py"]
    assert env["ROOTSTOCK_URL"] == "http://demo-rootstock-serve-svc:8000"
    assert env["ROOTSTOCK_TIMEOUT_S"] == "7"
    assert json.loads(env["ROOTSTOCK_SETTINGS"])["backbone"] == "rootstock_nano"
    assert env["ROOTSTOCK_TOKEN_FILE"] == "/etc/rootstock/tokens/tokens"
    # A volume that one node alone may mount would keep it from starting on another.
    assert "store" not in {v["name"] for v in pod["spec"]["volumes"]}
    assert render({"test": {"enabled": False}}).of("Pod") == []


def test_a_job_trains_one_task_and_publishes_it(render):
    """By the command that a person would use, on images of a volume."""
    job = {"enabled": True, "task": "flowers", "claim": "images", "path": "flowers"}
    found = render({"trainJob": {**job, "arguments": ["--epochs", 50], "accelerators": 2}})

    spec = found.one("RayJob")["spec"]
    words = spec["entrypoint"].split()
    assert words[:2] == ["rootstock", "train"]
    assert " ".join(words).endswith('--store "file:///store" --epochs 50')
    for given in ("--task flowers", "--method alore", "--data /data/flowers"):
        assert given in spec["entrypoint"]
    assert spec["entrypointNumGpus"] == 2
    pod = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    claims = {v["name"]: v.get("persistentVolumeClaim") for v in pod["volumes"]}
    assert claims["data"] == {"claimName": "images", "readOnly": True}
    assert claims["store"] == {"claimName": "demo-rootstock-store"}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2


def test_the_jobs_pod_is_kept_like_the_others(render):
    """Its dashboard takes orders too; and KubeRay's own probes need a wget that is not there."""
    job = {"enabled": True, "task": "flowers", "claim": "images"}
    values = {"commonLabels": {"team": "vision"}, "rayAuth": {"mode": "token"}}
    found = render({**values, "trainJob": job})

    cluster = found.one("RayJob")["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    template = cluster["headGroupSpec"]["template"]
    assert template["metadata"]["labels"]["team"] == "vision"
    policy = found.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/api/gcs_healthz", "port": 8265}


def test_a_job_without_accelerators_asks_for_none(render):
    job = {"enabled": True, "task": "flowers", "claim": "images", "accelerators": 0}

    spec = render({"trainJob": job}).one("RayJob")["spec"]

    assert "entrypointNumGpus" not in spec
    assert "--threads 2" in spec["entrypoint"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]


def test_objects_of_ones_own_are_rendered_along(render):
    extra = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "{{ .Release.Name }}-more"},
    }

    found = render({"extraObjects": [extra], "commonLabels": {"team": "vision"}})

    assert found.one("ConfigMap", "demo-more")
    assert found.one("RayService")["metadata"]["labels"]["team"] == "vision"


def test_names_can_be_chosen_and_stay_short(render):
    long = "a" * 50

    assert render({"fullnameOverride": "mine"}).one("RayService")["metadata"]["name"] == "mine"
    names = [o["metadata"]["name"] for o in render({"fullnameOverride": long}).objects]
    assert all(len(name) <= 63 for name in names)


def test_the_notes_warn_of_what_is_open(render):
    """No operator, no tokens, no policy: each is said after an installation."""

    def notes(values: dict) -> str:
        text = '{{ include "rootstock/templates/NOTES.txt" . | b64enc }}'
        own = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "notes"}}
        found = render({**values, "extraObjects": [{**own, "data": {"text": text}}]})
        return base64.b64decode(found.one("ConfigMap", "notes")["data"]["text"]).decode()

    said = notes({"networkPolicy": {"enabled": False}, "service": {"type": "LoadBalancer"}})
    quiet = notes({"tokens": {"secret": "keys"}})

    for word in ("does not know ray.io/v1", "no tokens", "no NetworkPolicy"):
        assert word in said
    assert "no tokens" not in quiet
    assert "no NetworkPolicy" not in quiet
    assert "reaches /metrics" in said
    assert "reaches /metrics" not in quiet
    assert "helm test demo" in quiet
    assert "http://demo-rootstock-serve-svc.vision.svc:8000" in quiet
