"""The shapes of answers, for `/openapi.json`. Handlers write them by hand; nothing acts on these.

Tests send requests of every kind and hold each answer to its shape, and to nothing beside it.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from adapters_store.events import Event
from adapters_store.manifest import Hex

_Count = Annotated[int, Field(ge=0)]
_Number = Annotated[int, Field(ge=1)]
_Odds = Annotated[float, Field(ge=0, le=1)]


class Shape(BaseModel):
    """An object with these keys and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Shape):
    """Why a request was refused, as RFC 9457 has it."""

    type: str
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    code: str = ""
    faults: tuple[str, ...] = ()


class ProtocolError(Shape):
    """The same as the Open Inference Protocol words it."""

    error: str


class Labelled(Shape):
    """One label and its probability."""

    label: str
    index: _Count
    probability: _Odds


class Prediction(Shape):
    """What a release says to one image."""

    task: str
    release: _Number
    digest: Hex
    path: Literal["mixed", "merged"]
    predictions: tuple[Labelled, ...]
    request_id: str


class Results(Shape):
    """One answer for each image or task, in order."""

    results: tuple[Prediction | Problem, ...]


class Summary(Shape):
    """A task in a list."""

    task: str
    active: _Number | None
    digest: Hex | None
    aliases: dict[str, _Number]
    split: dict[str, _Number]
    generation: _Count


class Tasks(Shape):
    """A page of tasks; `next` is the `page` to ask for."""

    items: tuple[Summary, ...]
    next: str | None


class Release(Shape):
    """A published adapter."""

    release: _Number
    digest: Hex
    bytes: _Count
    at: str
    by: str
    why: str
    retired: bool


class Holder(Shape):
    """What one replica answers with."""

    replica: str
    kind: str
    generation: _Count
    release: _Number | None
    digest: Hex | None
    detail: str | None = None  # why it answers with none


class Task(Summary):
    """A task whole; labels, method and metrics are of its active release."""

    labels: tuple[str, ...] | None = None
    method: str | None = None
    metrics: dict[str, float] | None = None
    releases: tuple[Release, ...]
    replicas: tuple[Holder, ...]


class History(Shape):
    """Every change of a task, oldest first."""

    items: tuple[Event, ...]


class Published(Shape):
    """A release, and which replicas have it."""

    task: str
    release: _Number
    digest: Hex
    generation: _Count
    ready: bool
    replicas: _Count
    waiting_for: tuple[str, ...]


class Changed(Shape):
    """A change that was made."""

    generation: _Count


class Health(Shape):
    """Whether a replica works."""

    healthy: bool


class Engine(Shape):
    """What an engine says of itself."""

    replica: str
    ready: bool
    generation: _Count
    store: str
    failing: tuple[str, ...]
    quarantined: tuple[str, ...] = ()


class Readiness(Shape):
    """Whether requests should come to a replica, and why not; `failing` are tasks."""

    ready: bool
    replica: str
    kind: str
    generation: _Count
    store: str
    failing: tuple[str, ...]
    backbone: str
    digest: Hex
    dtype: str
    engines: tuple[Engine, ...]


class Server(Shape):
    """What this server is, to clients of the Open Inference Protocol."""

    name: str
    version: str
    extensions: tuple[str, ...]


class Live(Shape):
    """Whether a replica works, in the protocol's words."""

    live: bool


class Ready(Shape):
    """Whether requests should come here, in the protocol's words."""

    ready: bool


class ModelReady(Ready):
    """Whether a task is answered."""

    name: str


class Tensor(Shape):
    """An input or an output; -1 is any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Model(Shape):
    """The tensors of a task, and its releases."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Output(Tensor):
    """An output with its values; binary ones follow the JSON."""

    data: tuple[float | str, ...] | None = None
    parameters: dict[str, int] | None = None


class Inferred(Shape):
    """The outputs of a call."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: tuple[Output, ...]


class Entry(Shape):
    """A task of the index."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class Index(RootModel[tuple[Entry, ...]]):
    """Every task."""


class Moved(Shape):
    """A task that is in memory now, or out of it."""

    name: str
    replicas: _Count
