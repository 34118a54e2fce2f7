"""Pods of Ray: groups, resources, environment, volumes, rights, probes, the way out."""

import json
import math
import shlex

import pytest

from helm.tools.generate import CHART
from serving.app import ENVIRONMENT, INGRESS, check_environment
from serving.config import Settings

SPLIT = {"settings": {"topology": "split", "replicas": 2, "doors": 3, "threads": 4}}
CUDA = {"settings": {"device": "cuda", "replicas": 2}, "engine": {"spare": 1}}


def env(pod: dict) -> dict:
    """The variables of a pod's Ray container."""
    return {v["name"]: v["value"] for v in pod["containers"][0]["env"]}


def mounts(pod: dict) -> dict:
    """What is mounted where, and that each mount has its volume."""
    volumes = {v["name"]: v for v in pod["volumes"]}
    return {m["mountPath"]: volumes[m["name"]] for m in pod["containers"][0]["volumeMounts"]}


def resources(group: dict) -> dict:
    """Ray's custom resources as `ray start` gets them, after a shell has taken the quotes away."""
    (text,) = shlex.split(group["rayStartParams"]["resources"])
    return json.loads(text)


def test_fused_has_one_group_and_split_has_two(render):
    assert render().groups.keys() == {"head", "engine"}
    assert render(SPLIT).groups.keys() == {"head", "engine", "door"}


def test_there_is_a_pod_for_every_replica(render):
    """The numbers are the settings', and what stands by."""
    groups = render({**SPLIT, "door": {"spare": 2}}).groups

    assert [groups["engine"][k] for k in ("replicas", "minReplicas", "maxReplicas")] == [2] * 3
    assert [groups["door"][k] for k in ("replicas", "minReplicas", "maxReplicas")] == [5] * 3


@pytest.mark.parametrize(("most", "surge"), [(4, 100), (4, 30), (1, 10)])
def test_scaled_groups_have_room_for_a_rolling_change(render, most, surge):
    """Ray's autoscaler may bring as many pods as Serve can want at once."""
    found = render(
        {
            "settings": {"autoscale": True, "replicas": most},
            "rollingUpdate": {"maxSurgePercent": surge},
        }
    )

    engine = found.groups["engine"]
    assert found.cluster["enableInTreeAutoscaling"] is True
    assert (engine["minReplicas"], engine["maxReplicas"]) == (
        1,
        most + math.ceil(most * surge / 100),
    )
    assert resources(engine) == {"rootstock_engine": 1}
    assert found.pods["head"]["automountServiceAccountToken"] is True


def test_the_head_carries_nothing(render):
    """No replica is placed there, no client is sent there, no accelerator is held."""
    found = render(CUDA)

    head = found.groups["head"]["rayStartParams"]
    assert (head["num-cpus"], head["num-gpus"]) == ("0", "0")
    assert found.one("RayService")["spec"]["excludeHeadPodFromServeSvc"] is True
    assert "nvidia.com/gpu" not in found.pods["head"]["containers"][0]["resources"]["limits"]


def test_a_pod_offers_what_its_replica_asks_for(render):
    """And twice that where a new replica is to start beside the old one."""
    found = render(SPLIT)

    for group, deployment in (("engine", "engine"), ("door", "rootstock")):
        offered, asked = found.groups[group], found.deployments[deployment]["ray_actor_options"]
        assert int(offered["rayStartParams"]["num-cpus"]) == 2 * asked["num_cpus"]
        assert resources(offered) == {name: 2 * n for name, n in asked["resources"].items()}
    alone = render({"engine": {"overlap": False, "spare": 1}}).groups["engine"]
    assert resources(alone) == {"rootstock_engine": 1}
    assert alone["replicas"] == 2


def test_engines_on_accelerators_have_one_each_and_doors_none(render):
    found = render({**CUDA, "settings": {**CUDA["settings"], "topology": "split"}})

    for name, count in (("engine", 1), ("door", None), ("head", None)):
        limits = found.pods[name]["containers"][0]["resources"]["limits"]
        assert limits.get("nvidia.com/gpu") == count
        assert found.groups[name]["rayStartParams"]["num-gpus"] == str(count or 0)
    assert resources(found.groups["engine"]) == {"rootstock_engine": 1}


def test_another_accelerator_may_be_named(render):
    amd = {**CUDA, "engine": {"spare": 1, "acceleratorResource": "amd.com/gpu"}}

    limits = render(amd).pods["engine"]["containers"][0]["resources"]["limits"]

    assert limits["amd.com/gpu"] == 1
    assert "nvidia.com/gpu" not in limits


@pytest.mark.parametrize("ingress", INGRESS)
def test_every_pod_has_the_environment_that_replicas_check(render, ingress):
    """Head and workers alike: the very check that a replica makes at its start."""
    found = render({**SPLIT, "settings": {**SPLIT["settings"], "ingress": ingress}})

    settings = Settings.model_validate(found.serve["applications"][0]["args"])
    for pod in found.pods.values():
        check_environment(settings, env(pod))
        assert env(pod).items() >= {**ENVIRONMENT, **INGRESS[ingress]}.items()


def test_what_replicas_say_is_what_kubectl_logs_shows(each):
    """Not a file in a volume that goes with the pod."""
    for pod in each.pods.values():
        assert env(pod)["RAY_LOG_TO_STDERR"] == "1"


def test_the_version_of_ray_is_the_locked_one(render):
    lock = (CHART.parents[1] / "requirements.lock").read_text()

    assert f"\nray=={render().cluster['rayVersion']} " in lock


def test_nobody_is_root_and_nothing_but_volumes_can_be_written(each):
    """Every container that the chart names: Ray's, what comes before it, test and job."""
    pods = [*each.pods.values(), *(p["spec"] for p in each.of("Pod"))]
    pods += [
        job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
        for job in each.of("RayJob")
    ]

    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}
            paths = {m["mountPath"] for m in container["volumeMounts"]}
            assert {"/tmp", "/dev/shm"} <= paths
    for name, pod in each.pods.items():
        scaled = each.cluster["enableInTreeAutoscaling"]
        assert pod["automountServiceAccountToken"] is (scaled and name == "head")


def test_releases_lie_on_a_volume_or_elsewhere(render):
    """Doors and engines see the volume, the head does not; a bucket needs none."""
    local = render({**SPLIT, "storeVolume": {"claim": "mine"}})
    remote = render({"settings": {"store": "s3://bucket/x"}, "storeSecret": "keys"})

    for name in ("door", "engine"):
        assert mounts(local.pods[name])["/store"]["persistentVolumeClaim"] == {"claimName": "mine"}
    assert "/store" not in mounts(local.pods["head"])
    assert local.of("PersistentVolumeClaim") == []
    assert "/store" not in mounts(remote.pods["engine"])
    assert remote.of("PersistentVolumeClaim") == []
    source = remote.pods["engine"]["containers"][0]["envFrom"]
    assert source == [{"secretRef": {"name": "keys"}}]
    assert "envFrom" not in remote.pods["head"]["containers"][0]


def test_the_charts_own_volume_outlives_the_installation(render):
    claim = render({"storeVolume": {"size": "3Gi", "storageClassName": "fast"}}).one(
        "PersistentVolumeClaim"
    )

    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Gi"
    assert claim["spec"]["storageClassName"] == "fast"


VIT = {"backbone": "vit_base_patch16_224"}
IN_WEIGHTS = {**VIT, "weights": "/weights/vit.safetensors"}


def test_weights_of_the_hub_are_cached(render):
    """In a claim, or in a volume of the pod's own."""
    hub = {"settings": VIT, "weights": {"source": "hub", "hubTokenSecret": "hf"}}
    own, shared = render(hub), render({**hub, "weights": {"source": "hub", "claim": "cache"}})

    assert env(own.pods["engine"])["HF_HOME"] == "/cache/huggingface"
    assert mounts(own.pods["engine"])["/cache"]["emptyDir"] == {"sizeLimit": "20Gi"}
    claim = mounts(shared.pods["engine"])["/cache"]["persistentVolumeClaim"]
    assert claim == {"claimName": "cache"}
    assert {"secretRef": {"name": "hf"}} in own.pods["engine"]["containers"][0]["envFrom"]


def test_weights_of_a_volume_are_read_only(render):
    found = render({"settings": IN_WEIGHTS, "weights": {"source": "volume", "claim": "w"}})

    claim = mounts(found.pods["engine"])["/weights"]["persistentVolumeClaim"]
    assert claim == {"claimName": "w", "readOnly": True}


def test_weights_of_the_store_are_there_before_the_engine(render):
    """A container before Ray's brings them; doors of split do without."""
    found = render(
        {
            "settings": {**IN_WEIGHTS, "topology": "split", "store": "s3://b/x"},
            "weights": {"source": "store", "object": "vit.safetensors"},
            "storeSecret": "keys",
        }
    )

    (fetch,) = found.pods["engine"]["initContainers"]
    assert fetch["args"] == ["s3://b/x", "vit.safetensors", "/weights/vit.safetensors"]
    assert fetch["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert "emptyDir" in mounts(found.pods["engine"])["/weights"]
    assert "initContainers" not in found.pods["door"]
    assert [c["name"] for c in found.one("Pod", "-test")["spec"]["initContainers"]] == ["weights"]


def test_tokens_are_mounted_where_http_is_spoken(render):
    found = render({**SPLIT, "tokens": {"secret": "keys"}})

    volume = mounts(found.pods["door"])["/etc/rootstock/tokens"]["secret"]
    assert volume == {"secretName": "keys", "defaultMode": 0o440}
    assert "/etc/rootstock/tokens" not in mounts(found.pods["engine"])
    assert "/etc/rootstock/tokens" not in mounts(found.pods["head"])


def test_a_pod_that_must_go_drains_first_and_has_the_time(render):
    found = render({"drainSeconds": 300})

    pod = found.pods["engine"]
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command == ["python", "/etc/rootstock/scripts/drain.py"]
    assert env(pod)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "300"
    assert pod["terminationGracePeriodSeconds"] == 360
    assert mounts(pod)["/etc/rootstock/scripts"]["configMap"]["name"] == "demo-rootstock-scripts"
    scripts = found.one("ConfigMap", "-scripts")["data"]
    for name, text in scripts.items():
        assert text == (CHART / "files" / name).read_text()


def test_probes_ask_ray_whether_it_lives_and_the_proxy_whether_it_is_ready(render):
    """A pod whose own proxy reaches no replica gets no requests."""
    found = render({"settings": {"port": 9000}})
    head, engine = (found.pods[name]["containers"][0] for name in ("head", "engine"))

    assert engine["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": 9000}
    assert engine["livenessProbe"]["httpGet"]["port"] == 52365
    assert head["readinessProbe"]["httpGet"]["port"] == 8265
    assert engine["readinessProbe"]["failureThreshold"] == 1
    assert {"name": "serve", "containerPort": 9000} in engine["ports"]


def test_where_pods_run_can_be_said_for_each_kind(render):
    """What a platform team needs to say of a pod reaches it, and no other."""
    said = {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "labels": {"team": "vision"},
        "annotations": {"note": "x"},
        "env": [{"name": "EXTRA", "value": "1"}],
        "volumes": [{"name": "more", "emptyDir": {}}],
        "volumeMounts": [{"name": "more", "mountPath": "/more"}],
        "initContainers": [{"name": "before", "image": "x"}],
        "shm": "3Gi",
    }

    found = render({**SPLIT, "engine": said})

    pod, metadata = found.pods["engine"], found.groups["engine"]["template"]["metadata"]
    for key in ("nodeSelector", "tolerations", "priorityClassName", "runtimeClassName", "affinity"):
        assert pod[key] == said[key]
        assert key not in found.pods["door"]
    assert metadata["labels"]["team"] == "vision"
    assert metadata["annotations"] == {"note": "x"}
    assert env(pod)["EXTRA"] == "1"
    assert mounts(pod)["/more"] == {"name": "more", "emptyDir": {}}
    assert mounts(pod)["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "3Gi"}
    assert pod["initContainers"] == said["initContainers"]


def test_pods_of_a_kind_spread_over_nodes(render):
    (constraint,) = render().pods["engine"]["topologySpreadConstraints"]

    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "engine"


def test_a_new_version_of_the_chart_alone_makes_no_second_cluster(render):
    """Pods carry no version; a label that changes would make KubeRay build them all again."""
    for group in render().groups.values():
        labels = group["template"]["metadata"]["labels"]
        assert "helm.sh/chart" not in labels
        assert "app.kubernetes.io/version" not in labels


def test_the_image_is_named_by_tag_or_digest(render):
    digest = "sha256:" + "a" * 64

    images = [
        render({"image": image}).pods["engine"]["containers"][0]["image"]
        for image in ({"tag": "7"}, {"repository": "r/x", "tag": "7", "digest": digest})
    ]

    assert images == ["rootstock:7", f"r/x@{digest}"]
    secrets = render({"image": {"pullSecrets": [{"name": "pull"}]}}).pods["head"]
    assert secrets["imagePullSecrets"] == [{"name": "pull"}]
