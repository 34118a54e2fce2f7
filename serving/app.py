"""The composition root: Ray's environment as data, and the application built from the settings.

The only place that knows a Ray variable. Ray reads them when it is imported, so this file is
importable without Ray; `build` imports it.
"""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from adapters_store.errors import RootstockError
from adapters_store.threads import OPENMP
from serving.config import Megabytes, Settings
from serving.front import LEAVING_VARIABLE

if TYPE_CHECKING:
    from ray import serve

log = logging.getLogger(__name__)

APPLICATION: Final = "rootstock"
RUN_VARIABLE: Final = "ROOTSTOCK_RUN"  # the folder of this run
LOG: Final = "server.log"  # in that folder

Ingress = Literal["haproxy", "python"]

# What must hold on every node, whoever starts Ray; the chart renders it, replicas check it.
ENVIRONMENT: Final[Mapping[str, str]] = {
    # A thread that spins at a barrier takes the core from whom it waits for.
    **OPENMP,
    # An artifact is at most 64 MiB and travels with a few words; the default is 4 MiB.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(72 * Megabytes),
    # Throughput mode turns this off, and then `kubectl logs` shows nothing.
    "RAY_SERVE_LOG_TO_STDERR": "1",
    # Serve's own jump from 20 to 50 to 100 ms, where service levels lie.
    "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": (
        "1,2,3,5,7.5,10,15,20,30,40,50,75,100,150,200,300,500,750,1000,2000,5000,10000,30000"
    ),
    # Serve obeys headers of clients; they are taken off before it sees them.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.front:middlewares",
    # Serve kills an HAProxy that is not up in five seconds, or silent for ten: a busy machine's.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
    # Nothing is sent to anybody.
    "RAY_USAGE_STATS_ENABLED": "0",
}
# What an ingress adds. The flags are set in pairs: throughput mode alone turns direct ingress on.
INGRESS: Final[Mapping[Ingress, Mapping[str, str]]] = {
    "haproxy": {
        # HAProxy dials the replicas itself; the Python proxy tops out near 300 requests a second.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # One event loop a replica, gRPC between them.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # A replica that refuses with 503 means it; only a connection that failed is tried again.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure",
    },
    "python": {
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
        # Replicas would listen beside the proxy.
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    },
}
# What a server on one machine adds, where nobody else may join and stopping must be quick.
ONE_MACHINE: Final[Mapping[str, str]] = {
    # Ray's node address becomes 127.0.0.1: else its ports take orders from the whole network.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A new local cluster would write a token to ~/.ray.
    "RAY_AUTH_MODE": "disabled",
    # No load balancer has to take note before a replica goes.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.5",
    # A constructor that failed here will fail again: say so at once.
    "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1",
    # Lines of replicas are shown to people and read by `host.py`.
    "RAY_COLOR_PREFIX": "0",
    # Thirty seconds by default, for Python to import Ray on a machine that is busy.
    "RAY_raylet_start_wait_time_s": "120",
    # Ray would leave out lines of replicas that are alike but for their numbers.
    "RAY_DEDUP_LOGS": "0",
    # Ray runs its workers at 15: whatever else this machine does would come long before answers.
    "RAY_worker_niceness": "0",
    # Other programs' memory is no reason to kill replicas.
    "RAY_memory_monitor_refresh_ms": "0",
}
# Serve would take flags by their default where they are not set; without these nothing is right.
REQUIRED: Final = frozenset(
    {
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
        "RAY_SERVE_ENABLE_HA_PROXY",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH",
    }
)

_FRONT_PORTS: Final = 4  # HAProxy's metrics and stats, the fallback proxy's http and grpc
_SPARE_PORTS: Final = 24  # a replaced replica's port rests 150 s before it is used again


class EnvironmentUnfitError(RootstockError):
    """Ray was started without variables that this application stands on."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        return "Ray's environment does not fit: " + "; ".join(self.faults)


@dataclass(frozen=True, slots=True)
class RunPaths:
    """What one run has for itself on its machine."""

    folder: Path  # short: sockets of Ray and HAProxy lie in it, and their paths end at 107 bytes
    ports: range  # as many as `ports_wanted` says, reserved by whoever made this


def ports_wanted(http_replicas: int) -> int:
    """How many ports a run needs, the public one not counted."""
    return _FRONT_PORTS + 2 * (http_replicas + _SPARE_PORTS)


def timeouts_s(settings: Settings) -> tuple[int, int]:
    """Serve's own limit on a request, and HAProxy's, which must be the longer one."""
    request = math.ceil(settings.budget_s + settings.load_s) + 10
    return request, request + 5


def haproxy_bounds(settings: Settings) -> dict[str, str]:
    """How long HAProxy waits for a replica, and how long an old process of its own lives on."""
    _, server = timeouts_s(settings)
    return {
        # Unset means for ever: a replica that hangs would hold its clients with it.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(server),
        # Every change of replicas brings a new one; Serve's own 120 s may be less than a request's.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(max(120, server + 5)),
    }


def environment(settings: Settings, run: RunPaths) -> dict[str, str]:
    """Every variable of a run on one machine, to be set before Ray is imported."""
    variables = {**ENVIRONMENT, **INGRESS[settings.ingress], **ONE_MACHINE}
    variables[RUN_VARIABLE] = str(run.folder)
    variables[LEAVING_VARIABLE] = str(run.folder / "leaving")
    if settings.ingress == "haproxy":
        metrics, stats, fallback_http, fallback_grpc = run.ports[:_FRONT_PORTS]
        span = settings.http_replicas + _SPARE_PORTS
        http, grpc = (run.ports[_FRONT_PORTS + i * span :][:span] for i in (0, 1))
        variables |= {
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run.folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run.folder / "admin"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run.folder / "log"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run.folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run.folder / "state"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_http),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http.start),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(http.stop),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc.start),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(grpc.stop),
            **haproxy_bounds(settings),
        }
    return variables


def check_environment(settings: Settings, found: Mapping[str, str] | None = None) -> None:
    """Refuse to start where a variable that must hold does not; warn about the others.

    Raises:
        EnvironmentUnfitError: with every such variable.
    """
    found = os.environ if found is None else found
    wanted = {**ENVIRONMENT, **INGRESS[settings.ingress]}
    # Serve takes a variable that is not set for 0, or for something smaller than ours.
    wrong = {n: v for n, v in wanted.items() if not _holds(found.get(n, "0"), v)}
    texts = {n: f"{n} must be {v} for ingress {settings.ingress!r}" for n, v in wrong.items()}
    if faults := tuple(text for name, text in texts.items() if name in REQUIRED):
        raise EnvironmentUnfitError(faults)
    for name in wrong:
        log.warning("Ray's environment differs", extra={"fault": texts[name]})


def _holds(found: str, wanted: str) -> bool:
    """Flags must be equal, limits may be larger."""
    if found.isdecimal() and wanted.isdecimal() and int(wanted) > 1:
        return int(found) >= int(wanted)
    return found == wanted


def alone() -> bool:
    """Whether this process belongs to a Ray that stays on one machine."""
    return all(os.environ.get(name) == value for name, value in ONE_MACHINE.items())


def build(args: Settings) -> "serve.Application":
    """The application, for `serve run serving.app:build`, the command line and the chart alike."""
    from ray import serve  # noqa: PLC0415 (the environment stands before Ray is imported)

    from serving.deployment import ENGINE_NAME, NAME, DoorShell, EngineShell  # noqa: PLC0415

    deployment = partial(
        serve.deployment,
        # We refuse before Serve does: its semaphore also holds the broadcasts.
        max_ongoing_requests=2 * args.in_flight_max,
        # Time to finish what was accepted: a request may wait for a load and for its batch.
        graceful_shutdown_timeout_s=args.budget_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=2,
        health_check_timeout_s=30,
    )
    door, given = serve.ingress()(DoorShell), (args.model_dump_json(), check_environment)
    engine = {**_count(args, args.replicas), "ray_actor_options": _engine_needs(args)}
    if args.topology == "fused":
        return deployment(name=NAME, **engine)(door).bind(*given, on_loopback=alone())
    engines = deployment(name=ENGINE_NAME, **engine)(EngineShell).bind(*given, on_loopback=alone())
    doors = deployment(
        name=NAME,
        **_count(args, args.doors),
        ray_actor_options={"num_cpus": args.decode_threads, "num_gpus": 0},
    )(door)
    return doors.bind(*given, engines, on_loopback=alone())


def cpus(settings: Settings) -> int:
    """What all replicas ask of Ray."""
    doors = settings.doors * settings.decode_threads if settings.topology == "split" else 0
    return settings.replicas * max(settings.threads, 1) + doors


def _count(settings: Settings, most: int) -> dict[str, Any]:
    if settings.autoscale:
        return {"autoscaling_config": {"min_replicas": 1, "max_replicas": most}}
    return {"num_replicas": most}


def _engine_needs(settings: Settings) -> dict[str, Any]:
    needs: dict[str, Any] = {"num_cpus": max(settings.threads, 1)}
    if settings.device.startswith("cuda"):
        needs["num_gpus"] = 1
    return needs
