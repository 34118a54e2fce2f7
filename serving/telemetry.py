"""Metrics as data: one literal table, bound in a process, merged over replicas. Knows no Ray.

Every process keeps its own registry; the door asks all replicas for a snapshot and prints one
text in which each series has the label `replica`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric as Family

Kind = Literal["counter", "gauge", "histogram"]
OTHER: Final = "__other__"

# The edges hold the service levels that people promise: 10, 25, 50, 100, 250 ms, 1 s.
SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.035, 0.05, 0.075,
    0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
PARTS: Final = (0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 10.0)
COUNTS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table. A counter's exported name ends in `_total`."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS: Final[Mapping[str, Metric]] = {
    "rootstock_requests": Metric("counter", "predict calls", ("task", "outcome")),
    "rootstock_request_seconds": Metric(
        "histogram", "predict calls, from the door in to the door out", ("outcome",), SECONDS
    ),
    "rootstock_stage_seconds": Metric(
        "histogram", "one image: decode, queue, compute, encode", ("stage",), SECONDS
    ),
    "rootstock_refusals": Metric("counter", "calls refused before compute", ("reason",)),
    "rootstock_in_flight": Metric("gauge", "predict calls inside the replica"),
    "rootstock_queue_samples": Metric("gauge", "samples that wait for the engine"),
    "rootstock_door_samples": Metric("gauge", "samples that wait at a door for an engine"),
    "rootstock_door_images": Metric(
        "gauge", "images that wait at a door for their turn to be decoded"
    ),
    "rootstock_group_samples": Metric(
        "histogram", "samples in a group that a door sends to an engine", (), COUNTS
    ),
    "rootstock_group_retries": Metric("counter", "groups sent again because their engine died"),
    "rootstock_batch_samples": Metric("histogram", "samples in a batch", (), COUNTS),
    "rootstock_batch_tasks": Metric("histogram", "distinct releases in a batch", (), COUNTS),
    "rootstock_samples": Metric("counter", "samples computed", ("path",)),
    "rootstock_merged_tasks": Metric("gauge", "releases merged into weights of their own"),
    "rootstock_merged_bytes": Metric("gauge", "bytes of those weights"),
    "rootstock_merges": Metric(
        "counter",
        "promoted: hot, pinned; demoted: cold, budget, superseded, disagreed; "
        "refused: disagreed, unavailable, budget",
        ("change", "reason"),
    ),
    "rootstock_residency_lookups": Metric(
        "counter", "adapters looked for: tier host or slot, result hit or miss", ("tier", "result")
    ),
    "rootstock_residency_evictions": Metric("counter", "adapters that had to leave", ("tier",)),
    "rootstock_resident_adapters": Metric("gauge", "adapters held", ("tier",)),
    "rootstock_resident_bytes": Metric("gauge", "bytes of adapters held", ("tier",)),
    "rootstock_resident_unproven": Metric(
        "gauge", "adapters in host memory whose effect check is yet to come"
    ),
    "rootstock_adapter_loads": Metric(
        "counter", "adapters loaded: ok, refused or unavailable", ("result",)
    ),
    "rootstock_adapter_load_seconds": Metric(
        "histogram", "from fetch to verified, by source: store or publish", ("source",), SECONDS
    ),
    "rootstock_effect_failures": Metric("counter", "adapters that failed their effect check"),
    "rootstock_second_looks": Metric(
        "counter",
        "answers computed again by the plain path: agreed, disagreed, unsound, unavailable",
        ("path", "result"),
    ),
    "rootstock_second_looks_waiting": Metric("gauge", "answers that wait for a second look"),
    "rootstock_second_looks_dropped": Metric(
        "counter", "answers that were drawn for a second look and found no room"
    ),
    "rootstock_second_look_seconds": Metric("counter", "processor time that second looks took"),
    "rootstock_second_look_distance": Metric(
        "histogram",
        "from an answer to the plain path's, as a part of what is tolerated",
        (),
        PARTS,
    ),
    "rootstock_quarantined_releases": Metric(
        "gauge", "releases no longer served because an answer was found to be wrong"
    ),
    "rootstock_event_loop_stall_seconds": Metric(
        "histogram", "how late the event loop came to what was due, ten times a second", (), SECONDS
    ),
    "rootstock_generation": Metric("gauge", "last log entry that is applied"),
    "rootstock_follower_unreachable": Metric("gauge", "1 while the store cannot be read"),
    "rootstock_follower_blocked": Metric("gauge", "1 while the log holds an unreadable entry"),
    "rootstock_build_info": Metric("gauge", "always 1", ("version", "backbone", "dtype", "device")),
}
FLEET: Final = {
    "rootstock_replicas_expected": "replicas that should answer a scrape",
    "rootstock_replicas_scraped": "replicas that did",
}

Snapshot = Sequence[Family]


class Telemetry:
    """The metrics of one process; threads may share it."""

    def __init__(self, task_labels_max: int) -> None:
        """All at zero.

        Args:
            task_labels_max: distinct values of the label `task`; later ones become `__other__`.
        """
        self._registry = CollectorRegistry(auto_describe=False)
        self._metrics: dict[tuple[Kind, str], Any] = {
            (metric.kind, name): _create(name, metric, self._registry)
            for name, metric in METRICS.items()
        }
        self._tasks: set[str] = set()
        self._tasks_max, self._lock = task_labels_max, Lock()

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a counter.

        Raises:
            KeyError: the table has no counter of that name (`set`, `observe`: no gauge, histogram).
            ValueError: a label is missing or unknown.
        """
        self._bound("counter", name, labels).inc(value)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._bound("gauge", name, labels).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put a value into a histogram."""
        self._bound("histogram", name, labels).observe(value)

    def snapshot(self) -> Snapshot:
        """Everything as plain data that can cross processes."""
        return list(self._registry.collect())

    def _bound(self, kind: Kind, name: str, labels: dict[str, str]) -> Any:
        metric = self._metrics[kind, name]
        if "task" in labels:
            labels["task"] = self._capped(labels["task"])
        return metric.labels(**labels) if METRICS[name].labels or labels else metric

    def _capped(self, task: str) -> str:
        """The task itself while there is room for its name, else `__other__`."""
        with self._lock:
            if task not in self._tasks and len(self._tasks) < self._tasks_max:
                self._tasks.add(task)
            return task if task in self._tasks else OTHER


def _create(name: str, metric: Metric, registry: CollectorRegistry) -> Any:
    match metric.kind:
        case "counter":
            return Counter(name, metric.help, metric.labels, registry=registry)
        case "gauge":
            return Gauge(name, metric.help, metric.labels, registry=registry)
        case "histogram":
            return Histogram(
                name, metric.help, metric.labels, registry=registry, buckets=metric.buckets
            )


class _Merged:
    """A collector over the snapshots of several replicas."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Sequence[Family]:
        return self._families


def merge(snapshots: Mapping[str, Snapshot], expected: int) -> str:
    """One exposition text of all replicas.

    Args:
        snapshots: by replica.
        expected: replicas that should have answered, so that a missing one shows.
    """
    families: dict[str, Family] = {}
    for replica, snapshot in sorted(snapshots.items()):
        for family in snapshot:
            whole = families.setdefault(
                family.name, Family(family.name, family.documentation, family.type)
            )
            whole.samples += [
                sample._replace(labels={**sample.labels, "replica": replica})
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
    for name, value in zip(FLEET, (expected, len(snapshots)), strict=True):
        families[name] = Family(name, FLEET[name], "gauge")
        families[name].add_sample(name, {}, value)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(list(families.values())))
    return generate_latest(registry).decode()
