"""What may go and what must stay: budgets, upgrades, the price of a change, the head's memory."""

import copy

import pytest


def test_each_kind_of_pod_has_a_budget_that_survives_upgrades(render):
    """By our own labels: KubeRay's name the cluster, which an upgrade replaces."""
    values = {"settings": {"topology": "split", "replicas": 1, "doors": 5}}
    found = render({**values, "door": {"spare": 2, "disruption": {"maxUnavailable": 2}}})

    budgets = {o["metadata"]["name"]: o["spec"] for o in found.of("PodDisruptionBudget")}
    assert budgets.keys() == {"demo-rootstock-engine", "demo-rootstock-door"}
    for name, spec in budgets.items():
        assert found.selected(spec["selector"]) == {name.removeprefix("demo-rootstock-")}
        # RayCluster has no scale: Kubernetes would count no pods, and allow no eviction for ever.
        assert "maxUnavailable" not in spec
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert budgets["demo-rootstock-door"]["minAvailable"] == 3
    assert budgets["demo-rootstock-engine"]["minAvailable"] == 0
    none = {"engine": {"disruption": {"enabled": False}}}
    assert render(none).of("PodDisruptionBudget") == []


def test_the_budget_of_pods_that_are_scaled_holds_for_the_fewest(render):
    found = render(
        {
            "settings": {"autoscale": True, "replicas": 8},
            "engine": {"scaling": {"min_replicas": 3}},
        }
    )

    assert found.one("PodDisruptionBudget")["spec"]["minAvailable"] == 2


def test_kuberays_own_names_are_left_to_it(each):
    """The Service `…-head-svc` of a RayService finds the head by them."""
    for group in each.groups.values():
        labels = group["template"]["metadata"]["labels"]
        assert "app.kubernetes.io/name" not in labels
        assert not any(label.startswith("ray.io/") for label in labels)


# Of the settings, those that pods show, with another value; KubeRay answers with a second cluster.
IN_PODS = {
    "budget_s": 60,
    "load_s": 20,
    "ingress": "python",
    "port": 9000,
    "topology": "fused",
    "autoscale": True,
    "device": "cuda",
    "threads": 4,
    "decode_threads": 4,
    "store": "s3://bucket/x",
}
# And a few of the others, of which replicas alone are replaced.
IN_REPLICAS = {
    "replicas": 3,
    "doors": 4,
    "dtype": "bf16",
    "slots": 128,
    "queue_max": 100,
    "merged_bytes": 2**30,
    "traces": "serving.traces:otlp",
    "log_format": "text",
}


@pytest.mark.parametrize("name", [*IN_PODS, *IN_REPLICAS])
def test_a_change_of_settings_costs_a_second_cluster_only_where_pods_show_it(render, name):
    """KubeRay compares what remains of a cluster without the numbers of its pods."""

    def shown(**changed: object) -> dict:
        values = {"settings": {"topology": "split", **changed}, "engine": {"spare": 1}}
        cluster = copy.deepcopy(render(values).cluster)
        for group in cluster["workerGroupSpecs"]:
            for number in ("replicas", "minReplicas", "maxReplicas"):
                del group[number]
        return cluster

    changed = {**IN_PODS, **IN_REPLICAS}[name]
    assert (shown() != shown(**{name: changed})) is (name in IN_PODS)


@pytest.mark.parametrize("kind", ["NewCluster", "None"])
def test_an_upgrade_is_of_the_kind_that_was_asked_for(render, kind):
    spec = render({"upgrade": {"type": kind, "deletionDelaySeconds": 70}}).one("RayService")["spec"]

    assert spec["upgradeStrategy"] == {"type": kind}
    assert spec["rayClusterDeletionDelaySeconds"] == 70


def test_an_incremental_upgrade_names_its_gateway(render):
    upgrade = {"type": "NewClusterWithIncrementalUpgrade", "gatewayClassName": "istio"}

    values = {"settings": {"autoscale": True}, "test": {"enabled": False}}
    spec = render({**values, "upgrade": upgrade}).one("RayService")["spec"]

    options = spec["upgradeStrategy"]["clusterUpgradeOptions"]
    assert options == {
        "gatewayClassName": "istio",
        "stepSizePercent": 25,
        "intervalSeconds": 30,
        "maxSurgePercent": 100,
    }


def test_rays_state_and_rays_own_tokens_are_kuberays_to_keep(render):
    """Passed on in KubeRay's words."""
    found = render(
        {
            "faultTolerance": {"redisAddress": "redis://r:6379", "passwordSecret": "pw"},
            "rayAuth": {"mode": "token", "secretName": "ray"},
        }
    )

    options = found.cluster["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == "redis://r:6379"
    key = options["redisPassword"]["valueFrom"]["secretKeyRef"]
    assert key == {"name": "pw", "key": "password"}
    assert found.cluster["authOptions"] == {"mode": "token", "secretName": "ray"}
    assert render().cluster.keys().isdisjoint({"authOptions", "gcsFaultToleranceOptions"})
