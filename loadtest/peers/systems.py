"""Who is measured, and with which settings each is tried, as one table. Knows no process.

A grid holds what a system's own documentation advises for a machine with few cores: batches on,
and either one worker that computes on all cores or a worker a core.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Settings = Mapping[str, Any]
OURS: Final = "rootstock"


@dataclass(frozen=True, slots=True)
class System:
    """One way to serve many tasks."""

    name: str
    title: str
    kept: Literal["models", "peft", "store"]  # what of a task it is given
    grid: tuple[Settings, ...]
    grows: Literal["restart", "file", "publish"]  # how it comes to another task
    target: Mapping[str, Any]  # how it is asked: of a scenario
    packages: tuple[str, ...]  # whose versions are told
    about: str  # one sentence for the page

    @property
    def ours(self) -> bool:
        """Whether it is Rootstock itself."""
        return self.name == OURS


_LITSERVE: Final = {"api_servers": 1, "wait_s": 0.005, "fast_queue": False}
_BENTOML: Final = {"batch": 16, "latency_ms": 10_000}
_RAY: Final = {"ingress": "haproxy", "wait_s": 0.005, "decoders": 2, "models": 1000}
_PEFT: Final = {"decoders": 2}

SYSTEMS: Final = (
    System(
        "litserve",
        "LitServe",
        "models",
        (
            {**_LITSERVE, "workers": 1, "threads": 2, "batch": 16},
            {**_LITSERVE, "workers": 2, "threads": 1, "batch": 8},
            {**_LITSERVE, "workers": 2, "threads": 1, "batch": 8, "fast_queue": True},
            {**_LITSERVE, "workers": 2, "threads": 1, "batch": 4, "api_servers": 2},
            {**_LITSERVE, "workers": 2, "threads": 1, "batch": 1, "wait_s": 0.0},
        ),
        "restart",
        {
            "path": "/predict",
            "body": "template",
            "template": '{"task": "{task}", "image": "{image}"}',
            "label": "predictions.0.label",
        },
        ("litserve", "fastapi", "uvicorn", "torch", "timm"),
        "one LitAPI that holds a whole model for every task in a dict made in `setup`; a batch is "
        "computed task by task; another task means a restart, for `setup` runs once",
    ),
    System(
        "bentoml",
        "BentoML",
        "models",
        (
            {**_BENTOML, "workers": 1, "threads": 1, "torch_threads": 2},
            {**_BENTOML, "workers": 2, "threads": 1, "torch_threads": 1},
            {**_BENTOML, "workers": 1, "threads": 2, "torch_threads": 1},
            {**_BENTOML, "workers": 2, "threads": 2, "torch_threads": 1},
        ),
        "restart",
        {
            "path": "/predict/{task}",
            "body": "multipart",
            "field": "images",
            "label": "0.predictions.0.label",
        },
        ("bentoml", "starlette", "uvicorn", "torch", "timm"),
        "one Service that holds a whole model for every task, each with an API and adaptive "
        "batches of its own; another task means a restart, for APIs are members of the class",
    ),
    System(
        "ray",
        "Ray Serve, multiplexed",
        "models",
        (
            {**_RAY, "replicas": 1, "computers": 1, "threads": 2, "batch": 8},
            {**_RAY, "replicas": 1, "computers": 2, "threads": 1, "batch": 16},
            {**_RAY, "replicas": 2, "computers": 1, "threads": 1, "batch": 8},
            {**_RAY, "replicas": 1, "computers": 2, "threads": 1, "batch": 8, "ingress": "python"},
        ),
        "file",
        {
            "path": "/",
            "headers": {"serve_multiplexed_model_id": "{task}"},
            "label": "predictions.0.label",
        },
        ("ray", "starlette", "torch", "timm"),
        "`@serve.multiplexed` whole models, with room for all, under `@serve.batch`, whose batches "
        "Serve splits by model; a model is loaded when it is first asked for",
    ),
    System(
        "peft",
        "PEFT behind FastAPI",
        "peft",
        (
            {**_PEFT, "workers": 1, "threads": 2, "batch": 16},
            {**_PEFT, "workers": 1, "threads": 2, "batch": 8},
            {**_PEFT, "workers": 2, "threads": 1, "batch": 8},
            {**_PEFT, "workers": 1, "threads": 1, "batch": 8},
        ),
        "file",
        {"path": "/predict/{task}", "label": "predictions.0.label"},
        ("peft", "fastapi", "uvicorn", "torch", "timm"),
        "one backbone, mixed batches by `adapter_names`, a micro-batcher of the benchmark's own, "
        "heads beside it in one product; an adapter is loaded when it is first asked for",
    ),
    System(
        OURS,
        "Rootstock",
        "store",
        ({}, {"replicas": 2, "threads": 1}, {"topology": "split", "threads": 2}),
        "publish",
        {"kind": "rootstock"},
        ("ray", "torch", "timm"),
        "`rootstock serve`, HAProxy in front, by default one process for doors and engine; another "
        "task is published over HTTP",
    ),
)


def named(names: str) -> tuple[System, ...]:
    """Of 'all', or of names with commas between them; in the table's order.

    Raises:
        KeyError: one is not known.
    """
    wanted = {s.name for s in SYSTEMS} if names == "all" else set(names.split(","))
    if unknown := wanted - {s.name for s in SYSTEMS}:
        raise KeyError(", ".join(sorted(unknown)))
    return tuple(s for s in SYSTEMS if s.name in wanted)


def words(settings: Settings) -> str:
    """Settings on one line; what has none says so."""
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "its defaults"
