"""The chart's values for metrics, alerts and dashboard. Knows no template."""
# ruff: noqa: N815 (the words are Kubernetes', in its spelling)

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from serving.telemetry import SECONDS


class Value(BaseModel):
    """A part of the values; what it does not name is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scrape(Value):
    """One scrape of the Service's /metrics, which holds every replica: never pod by pod."""

    kind: Literal["none", "ScrapeConfig", "ConfigMap"] = Field(
        default="none",
        description="an object of the Prometheus operator, or a file for scrape_config_files",
    )
    intervalSeconds: int = Field(default=15, ge=1)
    labels: dict[str, str] = Field(default={}, description="such as {release: prometheus}")


class PodMonitor(Value):
    """Ray's own ports and HAProxy's, pod by pod; an object of the Prometheus operator."""

    enabled: bool = False
    intervalSeconds: int = Field(default=30, ge=1)
    labels: dict[str, str] = {}


class Rules(Value):
    """Alerts; an object of the Prometheus operator."""

    enabled: bool = False
    labels: dict[str, str] = {}
    objectivePercent: float = Field(
        default=99.5, gt=0, lt=100, description="of predict calls, right and within latencySeconds"
    )
    latencySeconds: float = Field(
        default=0.25,
        description="an edge of rootstock_request_seconds",
        json_schema_extra={"enum": list(SECONDS)},
    )
    lagSeconds: int = Field(default=60, ge=1, description="that a replica may be behind the log")
    refusedPercent: float = Field(default=5, gt=0, lt=100, description="of predict calls")
    stallSeconds: float = Field(
        default=0.1, gt=0, description="that a replica's event loop may be late, 99th percentile"
    )

    @field_validator("latencySeconds")
    @classmethod
    def _is_an_edge(cls, value: float) -> float:
        if value not in SECONDS:
            raise ValueError(f"not an edge of rootstock_request_seconds: {SECONDS}")
        return value


class Dashboard(Value):
    """A ConfigMap that Grafana's sidecar picks up."""

    enabled: bool = False
    labels: dict[str, str] = {"grafana_dashboard": "1"}
    annotations: dict[str, str] = {}


class Monitoring(Value):
    """Metrics, alerts, dashboard."""

    scrape: Scrape = Scrape()
    podMonitor: PodMonitor = PodMonitor()
    rules: Rules = Rules()
    dashboard: Dashboard = Dashboard()
