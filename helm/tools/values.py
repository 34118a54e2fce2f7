"""The chart's values: every one with its type, default and description. Knows no template.

One source for `values.yaml`, `values.schema.json` and the table in the chart's README. The part
`settings` is the server's own model and is not written here again.
"""
# ruff: noqa: N815 (the words are Kubernetes', in its spelling)

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from helm.tools.monitoring_values import Monitoring
from serving.config import Settings

Object = dict[str, Any]  # of Kubernetes, passed on as it is
Name = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?)?$")]
Mode = Literal["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"]


class Value(BaseModel):
    """A part of the values; what it does not name is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Image(Value):
    """The image that every pod runs, built from this repository's Dockerfile."""

    repository: str = Field(default="rootstock", min_length=1, description="with its registry")
    tag: str = Field(default="", description="the chart's appVersion where empty")
    digest: str = Field(
        default="", pattern=r"^(sha256:[0-9a-f]{64})?$", description="wins over the tag"
    )
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pullSecrets: list[Object] = Field(default=[], description="names of pull secrets")


class Pod(Value):
    """What every kind of pod may be given."""

    resources: Object = Field(description="of its Ray container; memory: request and limit equal")
    nodeSelector: Object = {}
    tolerations: list[Object] = []
    affinity: Object = {}
    priorityClassName: str = ""
    runtimeClassName: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    env: list[Object] = Field(default=[], description="after the chart's own; not Ray's variables")
    initContainers: list[Object] = []
    volumes: list[Object] = []
    volumeMounts: list[Object] = []
    shm: str = Field(default="512Mi", description="size of /dev/shm, which counts as memory")


class Head(Pod):
    """Ray's head: no load, no accelerator, not behind the Service."""

    resources: Object = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}


class Scaling(Value):
    """Serve's own words, for `settings.autoscale`; the most is `settings.replicas` or `doors`."""

    min_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(
        default=16, gt=0, description="in a replica: images of a door, groups of a split engine"
    )
    upscale_delay_s: float = Field(default=30, ge=0)
    downscale_delay_s: float = Field(default=600, ge=0)


class Budget(Value):
    """A PodDisruptionBudget."""

    enabled: bool = True
    maxUnavailable: int = Field(
        default=1,
        ge=0,
        description="of the pods that settings want, scaled: of scaling.min_replicas. The object "
        "says minAvailable, which alone Kubernetes keeps for Ray's pods",
    )


class Group(Pod):
    """Pods of one kind: one replica in each, `settings.replicas` or `settings.doors` of them."""

    spare: int = Field(
        default=0, ge=0, description="pods beyond these, for a replica that moves or is replaced"
    )
    overlap: bool = Field(
        default=True,
        description="room for a second replica in each pod while one replaces another; needs the "
        "memory of two. Not for accelerators, nor where pods are scaled",
    )
    scaling: Scaling = Scaling()
    disruption: Budget = Budget()
    spread: list[Object] = Field(
        default=[
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
            }
        ],
        description="topologySpreadConstraints; the chart adds the selector",
    )


class Engine(Group):
    """Pods that compute; in topology fused they speak HTTP as well."""

    resources: Object = {"requests": {"cpu": "2", "memory": "6Gi"}, "limits": {"memory": "6Gi"}}
    acceleratorResource: str = Field(
        default="nvidia.com/gpu",
        description="one for each pod, where settings.device is cuda",
    )


class Door(Group):
    """Pods that speak HTTP and decode; topology split alone."""

    resources: Object = {"requests": {"cpu": "2", "memory": "3Gi"}, "limits": {"memory": "3Gi"}}


class Autoscaler(Value):
    """Ray's autoscaler in the head pod; on with `settings.autoscale`."""

    idleTimeoutSeconds: int = Field(default=300, ge=1)
    resources: Object = {
        "requests": {"cpu": "200m", "memory": "512Mi"},
        "limits": {"memory": "512Mi"},
    }


class RollingUpdate(Value):
    """How replicas are replaced when settings change."""

    maxSurgePercent: int = Field(
        default=100, ge=0, le=100, description="0 stops the old before it starts the new"
    )
    percentage: float = Field(default=0.2, gt=0, le=1, description="of replicas at a time")


class Upgrade(Value):
    """How the cluster is replaced when pods change: KubeRay's upgradeStrategy."""

    type: Literal["NewCluster", "NewClusterWithIncrementalUpgrade", "None"] = Field(
        default="NewCluster",
        description="the incremental one needs settings.autoscale, and brings a Gateway of its own",
    )
    gatewayClassName: str = ""
    stepSizePercent: int = Field(default=25, ge=1, le=100)
    intervalSeconds: int = Field(default=30, ge=1)
    maxSurgePercent: int = Field(default=100, ge=1, le=100)
    deletionDelaySeconds: int = Field(
        default=120, ge=0, description="that the old cluster lives on, for requests under way"
    )


class Weights(Value):
    """Where weights of a backbone that is not bundled come from."""

    source: Literal["bundled", "hub", "volume", "store"] = Field(
        default="bundled", description="volume and store: settings.weights is a file in /weights"
    )
    claim: str = Field(default="", description="hub: for the cache; volume: that holds them")
    cacheSize: str = Field(default="20Gi", description="without a claim, of each pod's own")
    hubTokenSecret: str = Field(default="", description="with a key HF_TOKEN")
    object: str = Field(default="", description="store: the object's path below settings.store")


class StoreVolume(Value):
    """A volume at /store, where settings.store is file:///store."""

    claim: str = Field(default="", description="an existing one; else the chart makes one")
    size: str = "10Gi"
    storageClassName: str | None = None
    accessModes: list[Mode] = ["ReadWriteMany"]


class Tokens(Value):
    """Tokens of clients. Without any, predicting is open to all and publishing is refused."""

    secret: str = Field(default="", description="lines `scope,scope token name` under `key`")
    key: str = "tokens"


class ServiceAccount(Value):
    """Of every pod; its annotations say which workload identity."""

    create: bool = True
    name: str = ""
    annotations: dict[str, str] = {}


class FaultTolerance(Value):
    """A Redis that keeps Ray's state, so that serving outlives the head."""

    redisAddress: str = ""
    passwordSecret: str = ""
    passwordKey: str = "password"


class RayAuth(Value):
    """Tokens between Ray's own processes and in front of its dashboard."""

    mode: Literal["disabled", "token"] = "disabled"
    secretName: str = ""


class Service(Value):
    """The Service in front of all doors; KubeRay makes it and moves it in upgrades."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    annotations: dict[str, str] = {}


class Ingress(Value):
    """Paths of the API, never /metrics."""

    enabled: bool = False
    className: str = ""
    annotations: dict[str, str] = {}
    hosts: list[str] = []
    tls: list[Object] = []
    documentation: bool = Field(default=True, description="/docs and /openapi.json as well")


class HttpRoute(Value):
    """The same for a Gateway."""

    enabled: bool = False
    annotations: dict[str, str] = {}
    parentRefs: list[Object] = []
    hostnames: list[str] = []
    documentation: bool = True


class NetworkPolicy(Value):
    """Who may reach which port. All else is closed: dashboard, client, metrics, statistics."""

    enabled: bool = True
    clients: list[Object] = Field(
        default=[{"namespaceSelector": {}}],
        description="peers that may predict and publish; empty: everybody",
    )
    operator: list[Object] = Field(
        default=[
            {
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
            }
        ],
        description="the KubeRay operator, which deploys through the dashboard's port",
    )
    prometheus: list[Object] = Field(
        default=[
            {
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
            }
        ],
        description="who may scrape",
    )
    egress: list[Object] = Field(
        default=[{"ports": [{"port": 443}, {"port": 6443}, {"port": 80}, {"port": 988}]}],
        description="beside DNS, Redis and the release's own pods: store, hub, Kubernetes' API, "
        "and the metadata servers that workload identities ask",
    )


class Test(Value):
    """`helm test`: ready, publish a tiny adapter, predict, retire."""

    enabled: bool = True
    timeoutSeconds: int = Field(default=600, ge=1)
    resources: Object = {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}


class TrainJob(Value):
    """A RayJob that trains one task on images of a volume and publishes it."""

    enabled: bool = False
    task: str = Field(default="", pattern=r"^([a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?)?$")
    method: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "alore"
    claim: str = Field(default="", description="a volume with the images, read-only at /data")
    path: str = Field(default="", pattern=r"^[A-Za-z0-9._/-]*$", description="of them in it")
    arguments: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9._,=/:+-]+$")] | int | float] = Field(
        default=[], description="more of `rootstock train`'s, such as [--epochs, 50, --threads, 4]"
    )
    accelerators: int = Field(default=1, ge=0, description="of engine.acceleratorResource")
    resources: Object = {"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "16Gi"}}
    nodeSelector: Object = {}
    tolerations: list[Object] = []
    ttlSecondsAfterFinished: int = Field(default=3600, ge=0)
    backoffLimit: int = Field(default=0, ge=0)


class Values(Value):
    """All of them."""

    nameOverride: Name = ""
    fullnameOverride: Name = ""
    commonLabels: dict[str, str] = Field(default={}, description="on every object")
    image: Image = Image()
    settings: Settings = Field(
        default=Settings(store="file:///store", host="0.0.0.0", threads=2),  # noqa: S104
        description="of the server, exactly as `serving.config.Settings` has them; see README",
    )
    head: Head = Head()
    engine: Engine = Engine()
    door: Door = Door()
    autoscaler: Autoscaler = Autoscaler()
    rollingUpdate: RollingUpdate = RollingUpdate()
    upgrade: Upgrade = Upgrade()
    drainSeconds: int = Field(
        default=120, ge=0, description="a pod that must go waits so long for replicas to move"
    )
    restart: str = Field(
        default="", description="change it to replace every replica, such as for new tokens"
    )
    weights: Weights = Weights()
    storeVolume: StoreVolume = StoreVolume()
    storeSecret: str = Field(
        default="", description="its keys become variables, such as AWS_ACCESS_KEY_ID"
    )
    tokens: Tokens = Tokens()
    serviceAccount: ServiceAccount = ServiceAccount()
    podSecurityContext: Object = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    securityContext: Object = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    faultTolerance: FaultTolerance = FaultTolerance()
    rayAuth: RayAuth = RayAuth()
    service: Service = Service()
    ingress: Ingress = Ingress()
    httpRoute: HttpRoute = HttpRoute()
    networkPolicy: NetworkPolicy = NetworkPolicy()
    monitoring: Monitoring = Monitoring()
    test: Test = Test()
    trainJob: TrainJob = TrainJob()
    extraObjects: list[Object] = Field(default=[], description="rendered as templates")
