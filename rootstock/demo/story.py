"""The demonstration's steps, each a function that returns what it saw. Prints nothing."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from adapters_store.backbone import Backbone
from adapters_store.store import AdapterStore
from rootstock.client import Client
from rootstock.demo.scans import QUESTIONS, TEST, Question, Scans
from rootstock.demo.traffic import Request, Stream, drive, while_running
from training.loop import Watch
from training.recipe import QUICK, compose
from training.run import TrainedTask, train_task
from training.trunk import default_device, native_precision

AROUND_S: Final = 1.5  # of traffic before and after the second release is published


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    task: str
    method: str
    parameters: int
    bytes: int
    accuracy: float  # of held-out scans, through HTTP
    p50_s: float
    p99_s: float
    path: str
    answered: int
    failed: int


@dataclass(frozen=True, slots=True)
class Swap:
    """What happened while a release was replaced under load."""

    task: str
    sent: int
    failed: int
    by_release: Mapping[int, int]  # release → answers
    accuracy: Mapping[int, float]  # release → accuracy of its answers
    first_answer_s: float  # from the call to publish until the first answer by the new release
    stale: int  # answers by the old release to requests sent after publish had returned


def train(question: Question, scans: Scans, backbone: Backbone, watch: Watch) -> TrainedTask:
    """Train one task on train, watching val; what is held out is not looked at."""
    data = scans.data(question, backbone.spec.preprocess())
    settings = {"precision": native_precision(default_device())}
    options, recipe = compose(question.method, settings, QUICK[question.method])
    return train_task(
        data,
        backbone,
        question.task,
        question.method,
        options.model_dump(),
        recipe,
        watch=watch,
    )


def publish(store: str, backbone: Backbone, trained: TrainedTask) -> None:
    """Publish an artifact to a store, as `rootstock store publish` does."""
    AdapterStore.open(store, backbone.spec.ref.digest).publish(
        trained.data, trained.adapter.manifest.task, by="demo"
    )


def classify(url: str, scans: Scans, trained: Mapping[str, TrainedTask]) -> list[Row]:
    """Every held-out scan for every task, tasks interleaved, so that batches are mixed."""
    requests: list[Request] = [(q.task, i, scans.files[i]) for i in TEST for q in QUESTIONS]
    hits = asyncio.run(drive(url, Stream(requests)))
    rows = []
    for question in QUESTIONS:
        mine = [h for h in hits if h.task == question.task]
        truth = scans.truth(question)
        latencies = [h.done - h.sent for h in mine if h.ok]
        adapter = trained[question.task].adapter
        rows.append(
            Row(
                task=question.task,
                method=adapter.manifest.method,
                parameters=trained[question.task].parameters,
                bytes=len(trained[question.task].data),
                accuracy=sum(h.label == truth[h.scan] for h in mine) / len(mine),
                p50_s=float(np.percentile(latencies, 50)) if latencies else 0.0,
                p99_s=float(np.percentile(latencies, 99)) if latencies else 0.0,
                path=", ".join(sorted({h.path for h in mine if h.path})),
                answered=len(latencies),
                failed=sum(not h.ok for h in mine),
            )
        )
    return rows


def swap(url: str, scans: Scans, question: Question, data: bytes) -> Swap:
    """Publish a second release of one task while all three are being asked for."""
    requests: list[Request] = [(q.task, i, scans.files[i]) for i in TEST for q in QUESTIONS]
    times: dict[str, float] = {}

    def publish() -> dict[str, Any]:
        with Client(url) as client:
            return client.publish(question.task, data)

    async def act() -> None:
        await asyncio.sleep(AROUND_S)
        times["began"] = time.monotonic()
        published = await asyncio.to_thread(publish)
        times["returned"] = time.monotonic()
        times["release"] = published["release"]
        await asyncio.sleep(AROUND_S)

    hits = asyncio.run(while_running(url, requests, act))
    new = int(times["release"])
    mine = [h for h in hits if h.task == question.task and h.ok]
    by_release = Counter(h.release for h in mine)
    truth = scans.truth(question)
    return Swap(
        task=question.task,
        sent=len(hits),
        failed=sum(not h.ok for h in hits),
        by_release=dict(sorted(by_release.items())),
        accuracy={
            r: sum(h.label == truth[h.scan] for h in mine if h.release == r) / n
            for r, n in sorted(by_release.items())
        },
        first_answer_s=min((h.done for h in mine if h.release == new), default=float("inf"))
        - times["began"],
        stale=sum(h.release < new and h.sent > times["returned"] for h in mine),
    )
