"""Settings of a server: one frozen value, checked once, given whole to `serving.app.build`.

Knows no default of the command line and reads no environment.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Megabytes = 2**20


class Token(BaseModel):
    """Who may call what. The token itself is never stored, only its sha256 in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: frozenset[Literal["predict", "admin"]]
    name: str = ""  # goes into the log as the author of a change


class Settings(BaseModel):
    """Everything that one application needs to know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: str = Field(description="where releases are kept: file://, s3://, gs://, az://")
    backbone: str = Field(default="rootstock_nano", description="timm name of the backbone")
    weights: Path | None = Field(default=None, description="its weights, else timm asks the hub")
    backbone_kwargs: dict[str, bool | int | float | str | tuple[int, ...]] = Field(default={})

    host: str = Field(default="127.0.0.1", description="address the ingress binds")
    port: int = Field(default=8000, ge=1, le=65535)
    ingress: Literal["haproxy", "python"] = "haproxy"
    topology: Literal["fused", "split"] = "fused"
    replicas: int = Field(default=1, ge=1, le=256, description="engines; fused: doors as well")
    doors: int = Field(default=1, ge=1, le=256, description="split: replicas that speak HTTP")
    autoscale: bool = Field(
        default=False,
        description="replicas and doors are the most there may be, which limits count with; Serve "
        "runs as many as are needed, at least one of each",
    )

    dtype: Literal["bf16", "fp32"] = "fp32"
    device: str = "cpu"
    threads: int = Field(default=0, ge=0, description="of the engine; 0: one per core")
    slots: int = Field(default=64, ge=1, description="adapters on the device at once")
    slot_bytes: int | None = Field(
        default=None,
        ge=1,
        description="adapters on the device, in bytes; without it as many as there are slots. One "
        "batch's adapters may take more",
    )
    host_bytes: int = Field(default=2048 * Megabytes, ge=1, description="adapters in host memory")
    merged_bytes: int = Field(
        default=0,
        ge=0,
        description="of the device's memory, for weights of hot tasks' own; 0: nothing is merged. "
        "A task takes up to as much as the backbone (ViT-B in bf16: 170 MB) and gains the few per "
        "cent that its adapter costs, so only tasks that are measured to gain are merged",
    )
    merged_pin: tuple[str, ...] = Field(
        default=(),
        description="tasks that are merged whenever they fit, the most wanted first",
    )
    batch_max: int = Field(default=32, ge=1, le=1024, description="samples in one batch")
    queue_max: int = Field(default=256, ge=1, description="samples that may wait")
    wait_s: float = Field(
        default=0.5,
        gt=0,
        description="for an engine; calls that would wait longer are refused",
    )
    decode_threads: int = Field(default=2, ge=1)

    second_look_share: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="of the answers, to be computed again by the plain path when the engine is "
        "idle; a release that answered wrongly is served no longer. Beside them one of every "
        "release now and then; 0: none",
    )

    budget_s: float = Field(
        default=30.0, gt=0, description="the most time to answer; a call may ask for less"
    )
    poll_s: float = Field(default=2.0, gt=0, description="between looks at the log")
    load_s: float = Field(default=30.0, gt=0, description="to load and verify one artifact")

    body_bytes: int = Field(default=10 * Megabytes, ge=1024, description="of a predict call")
    artifact_bytes: int = Field(
        default=64 * Megabytes, ge=1024, le=64 * Megabytes, description="of a publish call"
    )
    pixels_max: int = Field(default=50_000_000, ge=1, le=50_000_000)
    files_max: int = Field(default=32, ge=1, description="images in one multipart call")
    tasks_max: int = Field(default=32, ge=1, le=1024, description="tasks in one call")
    task_labels_max: int = Field(default=200, ge=1, description="tasks named in metric labels")

    tokens: tuple[Token, ...] = ()
    log_format: Literal["json", "text"] = Field(
        default="json", description="lines of replicas on standard error"
    )
    access_lines: int = Field(
        default=20,
        ge=0,
        description="requests that a door writes a line of, in a second; changes and errors of the "
        "server have theirs always",
    )
    traces: str = Field(
        default="",
        pattern=r"^([\w.]+:\w+)?$",
        description="where Serve's spans go: module:function, such as serving.traces:otlp",
    )
    traces_share: float = Field(default=0.01, ge=0, le=1, description="of requests that have spans")

    token_file: Path | None = Field(
        default=None,
        description="more tokens, read by every door at its start; lines: scope,scope token name",
    )

    @model_validator(mode="after")
    def _slots_hold_a_batch(self) -> "Settings":
        if self.slots < self.batch_max:
            raise ValueError("slots must be at least batch_max: every sample may want another task")
        return self

    @model_validator(mode="after")
    def _doors_are_of_split(self) -> "Settings":
        if self.doors > 1 and self.topology != "split":
            raise ValueError("doors need topology split: fused replicas are doors themselves")
        return self

    @model_validator(mode="after")
    def _pins_have_a_budget(self) -> "Settings":
        if self.merged_pin and not self.merged_bytes:
            raise ValueError("merged_pin needs merged_bytes: the memory that pinned tasks may take")
        return self

    @property
    def http_replicas(self) -> int:
        """How many replicas speak HTTP."""
        return self.doors if self.topology == "split" else self.replicas

    @property
    def out_max(self) -> int:
        """Samples that one door has at engines at once: two batches for each engine it sees."""
        return 2 * self.batch_max * (self.replicas if self.topology == "split" else 1)

    @property
    def inside_max(self) -> int:
        """Predict calls inside one replica at once; one more is refused before its body is read."""
        return self.queue_max + self.out_max

    @property
    def engine_queue_max(self) -> int:
        """Samples that may wait in an engine's own line.

        Doors refuse, before they decode. An engine takes whatever they let in, even all of it at
        once: groups, and what travels apart because its adapter has to be loaded.
        """
        return self.doors * self.inside_max

    @property
    def in_flight_max(self) -> int:
        """For Serve's own semaphore, which broadcasts share and which must never bind first."""
        return 4 * self.inside_max
