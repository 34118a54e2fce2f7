"""What a load test is to do, as one frozen value. Knows no file, no clock and no server."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, lt=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False)]
Spacing = Literal["constant", "poisson", "gamma"]

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a header's name, RFC 9110
_OURS: Final = ("content-length", "transfer-encoding", "connection")
_BURSTS_MAX: Final = 100_000


class Part(BaseModel):
    """Of a scenario."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Steady(Part):
    """The same rate all the time: arrivals at equal distances, of a Poisson, or of a gamma law."""

    kind: Spacing
    rate: Positive  # a second
    cv: Positive = 1.0  # of the distances; gamma alone

    @property
    def spacing(self) -> Spacing:
        """How arrivals lie around the rate."""
        return self.kind


class Ramp(Part):
    """From one rate to another in a straight line."""

    kind: Literal["ramp"]
    rate: Positive
    to_rate: Positive
    spacing: Spacing = "poisson"
    cv: Positive = 1.0


class Burst(Part):
    """A rate, and every so often another."""

    kind: Literal["burst"]
    rate: Positive
    peak_rate: Positive
    every_s: Positive
    for_s: Positive
    spacing: Spacing = "poisson"
    cv: Positive = 1.0

    @model_validator(mode="after")
    def _fits(self) -> "Burst":
        if self.for_s >= self.every_s:
            raise ValueError("for_s is to be less than every_s")
        return self


class Flash(Part):
    """A flash crowd: a rate, a steep rise to another, and a slower way back."""

    kind: Literal["flash"]
    rate: Positive
    peak_rate: Positive
    at_s: NotNegative
    rise_s: Positive = 1.0
    hold_s: NotNegative = 5.0
    fall_s: Positive = 10.0
    spacing: Spacing = "poisson"
    cv: Positive = 1.0


class Replay(Part):
    """Instants of a file; what it says of tasks goes before `popularity`."""

    kind: Literal["replay"]
    file: str
    speed: Positive = 1.0  # 2: twice as fast as it was


class Closed(Part):
    """No open loop: so many clients, and each sends when it has its answer."""

    kind: Literal["closed"]
    clients: Annotated[int, Field(ge=1, le=100_000)]
    think_s: NotNegative = 0.0


Open = Steady | Ramp | Burst | Flash
Arrivals = Annotated[Open | Replay | Closed, Field(discriminator="kind")]


class Popularity(Part):
    """Which task a request wants. Ranks are dealt to tasks by the seed."""

    kind: Literal["uniform", "zipf", "geometric", "power", "hot", "round_robin", "trace"] = (
        "uniform"
    )
    s: NotNegative = 1.0  # zipf: p of rank i goes as i ** -s
    ratio: Positive = 1.5  # geometric: each rank is this many times rarer than the one before
    alpha: Positive = 1.0  # power: the share of the first x of all tasks is x ** alpha
    hot: Annotated[int, Field(ge=1)] = 1  # hot: tasks of the hot set …
    hot_share: Share = 0.9  # … and their share of requests
    drift_s: NotNegative = 0.0  # ranks are dealt anew this often; 0: never
    file: str | None = None  # trace: one task a line, asked for in this order

    @model_validator(mode="after")
    def _named(self) -> "Popularity":
        if (self.kind == "trace") != (self.file is not None):
            raise ValueError("kind = 'trace' and `file` go together")
        return self


class Tasks(Part):
    """The tasks: given by name, by a pattern, or asked of the server."""

    names: tuple[str, ...] = ()
    pattern: str | None = None  # 'task-{:04d}'
    count: Annotated[int, Field(ge=0, le=1_000_000)] = 0  # 0 with neither: all that there are
    popularity: Popularity = Popularity()
    fan_out: Annotated[int, Field(ge=1, le=256)] = 1  # tasks of one request, all different
    unknown_share: Share = 0.0  # requests for tasks that there are not

    @model_validator(mode="after")
    def _one_way(self) -> "Tasks":
        if self.names and self.pattern is not None:
            raise ValueError("names or a pattern, not both")
        if not all(self.names) or len(set(self.names)) < len(self.names):
            raise ValueError("a name is empty, or given twice")
        if self.pattern is not None:
            if not self.count:
                raise ValueError("a pattern needs a count")
            try:
                different = self.pattern.format(0) != self.pattern.format(1)
            except (IndexError, KeyError, ValueError):
                different = False
            if not different:
                raise ValueError("a pattern holds one place for a number, such as {:04d}")
        return self


class Size(Part):
    """Of pictures, in pixels, and how many have it."""

    width: Annotated[int, Field(ge=1, le=20_000)]
    height: Annotated[int, Field(ge=1, le=20_000)]
    weight: Positive = 1.0


class Images(Part):
    """What is sent: files of a folder, as they are or re-encoded, or pictures drawn by the seed."""

    folder: str | None = None
    count: Annotated[int, Field(ge=1, le=100_000)] = 32  # different ones at most
    sizes: tuple[Size, ...] = ()
    formats: dict[Literal["jpeg", "png", "webp", "bmp"], Positive] = Field(default_factory=dict)
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    corrupt_share: Share = 0.0


class Checks(Part):
    """What an answer is held to while the load runs."""

    labels: Literal["none", "learn", "file"] = "learn"
    file: str | None = None  # JSON: {task: {name of an image: label}}
    learn_max: Annotated[int, Field(ge=0)] = 256  # pairs asked before the load begins
    margin: Share = 0.02  # two best odds this near: another label is no fault
    digests: bool = True

    @model_validator(mode="after")
    def _named(self) -> "Checks":
        if (self.labels == "file") != (self.file is not None):
            raise ValueError("labels = 'file' and `file` go together")
        return self


class Churn(Part):
    """Changes of the catalog while the load runs; each kind so often a second."""

    publish_every_s: NotNegative = 0.0  # 0: never
    activate_every_s: NotNegative = 0.0  # to and fro between two releases of a task
    retire_every_s: NotNegative = 0.0  # a task goes, and is published again
    artifacts: str | None = None  # folder of .safetensors files to publish
    min_generation: bool = True  # requests demand what they were promised

    @model_validator(mode="after")
    def _published_from(self) -> "Churn":
        if (self.publish_every_s or self.retire_every_s) and self.artifacts is None:
            raise ValueError("publish_every_s and retire_every_s need `artifacts`, a folder")
        return self

    @property
    def any(self) -> bool:
        """Whether anything is to change."""
        return bool(self.publish_every_s or self.activate_every_s or self.retire_every_s)


class Target(Part):
    """Whom to ask, and in which language."""

    kind: Literal["rootstock", "oip", "plain"] = "rootstock"
    url: str = "http://127.0.0.1:8000"
    headers: dict[str, str] = Field(default_factory=dict)
    metrics: str = "/metrics"  # path of Prometheus text, read before and after; "": none
    # Open Inference Protocol
    input: str = "image"
    datatype: Literal["BYTES", "UINT8", "FP32"] = "BYTES"  # FP32: pixels, decoded here
    shape: tuple[Annotated[int, Field(ge=1)], ...] = ()  # (): [1], [1, bytes], [1, 3, size, size]
    binary: bool = True  # tensors behind the JSON; MLServer has them in it
    size: Annotated[int, Field(ge=1, le=4096)] = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    label_output: str = "label"  # "": the first output, whose largest element decides
    # plain
    path: str = "/predict/{task}"
    body: Literal["raw", "multipart", "json", "template"] = "raw"
    field: str = "image"  # of multipart and JSON
    template: str = ""  # JSON in which {image} stands for the image in base64, {task} for the task
    label: str | None = None  # where the answer's JSON has it: 'predictions.0.label'

    @property
    def names_task(self) -> bool:
        """Whether a request says which task it wants."""
        held = (self.path, self.template, *self.headers.values())
        return self.kind != "plain" or any("{task}" in text for text in held)

    @model_validator(mode="after")
    def _speakable(self) -> "Target":
        for path in filter(None, (self.path, self.metrics)):
            if not path.startswith("/") or any(c.isspace() or c < " " for c in path):
                raise ValueError(f"{path!r} is no path: it begins with / and has no spaces")
        for name, value in self.headers.items():
            if not _TOKEN.fullmatch(name) or any(c in "\r\n\0" for c in value):
                raise ValueError(f"{name!r} is no header of one line")
            taken = _OURS if self.kind == "plain" else (*_OURS, "content-type")
            if name.lower() in taken:
                raise ValueError(f"the header {name} follows from the body")
        if (self.body == "template") != bool(self.template):
            raise ValueError("body = 'template' and `template` go together")
        return self


class Slo(Part):
    """What a good answer is, and what the run as a whole has to reach for exit code 0."""

    latency_ms: Positive = 100.0
    limits: dict[str, float] = Field(default_factory=dict)  # 'p99_ms' = at most, 'goodput' = least


class Saturate(Part):
    """How the highest rate is looked for."""

    start_rate: Positive = 10.0
    max_rate: Positive = 100_000.0
    step_s: Positive = 10.0
    tolerance: Annotated[float, Field(gt=0.001, lt=1)] = 0.05
    errors_max: Share = 0.001
    achieved_min: Share = 0.99
    tries: Annotated[int, Field(ge=1, le=5)] = 2  # a rate is too high when it failed so often
    overload: tuple[Positive, ...] = (1.5, 2.0)
    settle_s: NotNegative = 20.0  # longest wait for the server to calm down


class Scenario(Part):
    """A whole load test."""

    name: str = "unnamed"
    about: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    duration_s: Positive = 30.0
    warmup_s: NotNegative = 2.0  # at the beginning; sent, and left out of figures
    workers: Annotated[int, Field(ge=1, le=256)] = 1  # client processes
    in_flight_max: Annotated[int, Field(ge=1, le=1_000_000)] = 1024  # of all; more are dropped
    timeout_s: Positive = 30.0
    deadline_ms: NotNegative = 0.0  # told to the server; 0: none
    deadline_share: Share = 1.0
    target: Target = Target()
    arrivals: Arrivals = Steady(kind="poisson", rate=10.0)
    tasks: Tasks = Tasks()
    images: Images = Images()
    checks: Checks = Checks()
    churn: Churn = Churn()
    slo: Slo = Slo()
    saturate: Saturate = Saturate()

    @model_validator(mode="after")
    def _consistent(self) -> "Scenario":
        if self.warmup_s >= self.duration_s:
            raise ValueError("warmup_s is to be less than duration_s")
        arrivals = self.arrivals
        if isinstance(arrivals, Burst) and self.duration_s / arrivals.every_s > _BURSTS_MAX:
            raise ValueError(f"more than {_BURSTS_MAX} bursts")
        if self.closed and self.tasks.popularity.drift_s:
            raise ValueError("drift_s needs instants: a closed loop has none")
        if self.tasks.unknown_share and not self.target.names_task:
            raise ValueError("unknown_share needs a {task} in target.path, headers or template")
        if self.target.kind != "rootstock":
            if self.churn.any:
                raise ValueError("churn needs target.kind = 'rootstock'")
            if self.tasks.fan_out > 1:
                raise ValueError("fan_out needs target.kind = 'rootstock'")
        return self

    @property
    def closed(self) -> bool:
        """Whether clients wait for answers."""
        return isinstance(self.arrivals, Closed)


def at_rate(scenario: Scenario, rate: float) -> Scenario:
    """The same load at another rate; peaks and ends of ramps keep their proportion.

    Raises:
        TypeError: its arrivals have no rate.
        ValidationError: the rate is none.
    """
    arrivals = scenario.arrivals
    if isinstance(arrivals, Replay | Closed):
        raise TypeError(arrivals.kind)
    factor = rate / arrivals.rate
    changed: dict[str, Any] = {"rate": rate}
    for field in ("to_rate", "peak_rate"):
        if hasattr(arrivals, field):
            changed[field] = factor * getattr(arrivals, field)
    again = type(arrivals).model_validate({**arrivals.model_dump(), **changed})
    return scenario.model_copy(update={"arrivals": again})
