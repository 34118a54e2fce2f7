"""Every request of a run, before it begins. Pure but for trace files.

A plan follows from scenario, names and seed alone, so every client process makes the same one and
takes its own rows of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadtest.arrivals import expected, instants
from loadtest.errors import ScenarioError
from loadtest.popularity import draws, effective, odds
from loadtest.scenario import Closed, Replay, Scenario
from loadtest.trace import Trace, read_names, read_trace

UNKNOWN_TASKS: Final = 16  # names that no server has
_CLOSED_ROWS: Final = 1 << 16  # of a closed loop, asked for again and again
_ROWS_MAX: Final = 10_000_000  # every process holds them all, at some 200 bytes each
_STREAMS: Final = ("arrivals", "tasks", "images", "corrupt", "unknown", "deadlines", "drawing")


class Want(IntEnum):
    """What a right answer is."""

    PREDICTION = 0
    UNKNOWN = 1  # 404: there is no such task
    UNDECODABLE = 2  # 400, 415 or 422: there is no such picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Requests [n] in the order of their instants."""

    at: NDArray[np.float64]  # seconds from the start
    tasks: NDArray[np.int32]  # [n, fan_out], into `names`
    image: NDArray[np.int32]  # into the pool of images
    deadline_ms: NDArray[np.float32]  # 0: none
    want: NDArray[np.uint8]  # Want
    names: tuple[str, ...]  # tasks, then those that there are not
    known: int  # tasks that there are
    effective: float  # number of tasks, of the law that they were drawn from

    def __len__(self) -> int:
        return len(self.at)


def seeds(seed: int) -> dict[str, np.random.SeedSequence]:
    """An independent stream for each thing that is drawn."""
    return dict(zip(_STREAMS, np.random.SeedSequence(seed).spawn(len(_STREAMS)), strict=True))


def make_plan(
    scenario: Scenario, tasks: Sequence[str], images: Sequence[str], corrupt: int
) -> Plan:
    """The plan of a run.

    Args:
        scenario: what is to be done.
        tasks: names of all tasks.
        images: names of the good images of the pool, which come first there.
        corrupt: how many bad ones follow them.

    Raises:
        ScenarioError: a trace names what there is not, or tasks are fewer than one request wants.
        OSError: a trace cannot be read.
    """
    stream = seeds(scenario.seed)
    fan_out = scenario.tasks.fan_out
    if fan_out > len(tasks):
        raise ScenarioError(scenario.name, (f"fan_out is {fan_out}, tasks are {len(tasks)}",))
    trace = _trace(scenario)
    at = _instants(scenario, trace, stream["arrivals"])
    count = len(at)
    chosen = _tasks(scenario, tasks, trace, at, stream["tasks"])
    image = np.random.default_rng(stream["images"]).integers(0, len(images), count)
    if trace is not None and trace.images:
        image = _indices(scenario, "image", trace.images[:count], images)
    rng = np.random.default_rng(stream["unknown"])
    strange = rng.random(count) < scenario.tasks.unknown_share
    strangers = len(tasks) + rng.integers(0, UNKNOWN_TASKS, count)
    chosen[:, 0] = np.where(strange, strangers, chosen[:, 0])
    rng = np.random.default_rng(stream["corrupt"])
    bad = rng.random(count) < (scenario.images.corrupt_share if corrupt else 0.0)
    bad &= ~strange  # one fault a request, so that it is plain which answer is right
    image = np.where(bad, len(images) + rng.integers(0, max(corrupt, 1), count), image)
    want = np.select([strange, bad], [Want.UNKNOWN, Want.UNDECODABLE], Want.PREDICTION)
    rng = np.random.default_rng(stream["deadlines"])
    hurried = rng.random(count) < scenario.deadline_share
    return Plan(
        at=at,
        tasks=chosen,
        image=image.astype(np.int32),
        deadline_ms=np.where(hurried, scenario.deadline_ms, 0.0).astype(np.float32),
        want=want.astype(np.uint8),
        names=(*tasks, *(f"loadtest-no-such-task-{i}" for i in range(UNKNOWN_TASKS))),
        known=len(tasks),
        effective=_effective(scenario, chosen, len(tasks)),
    )


def _trace(scenario: Scenario) -> Trace | None:
    arrivals = scenario.arrivals
    return read_trace(Path(arrivals.file)) if isinstance(arrivals, Replay) else None


def _instants(
    scenario: Scenario, trace: Trace | None, seed: np.random.SeedSequence
) -> NDArray[np.float64]:
    arrivals = scenario.arrivals
    if isinstance(arrivals, Closed):
        return np.zeros(_CLOSED_ROWS)
    if isinstance(arrivals, Replay):
        assert trace is not None
        at = np.array(trace.at) / arrivals.speed
        return at[at < scenario.duration_s]
    wanted = expected(arrivals, scenario.duration_s)
    if wanted > _ROWS_MAX:
        fault = f"{wanted:,.0f} requests, a run has at most {_ROWS_MAX:,}: less rate or duration"
        raise ScenarioError(scenario.name, (fault,))
    return instants(arrivals, scenario.duration_s, seed)


def _tasks(
    scenario: Scenario,
    tasks: Sequence[str],
    trace: Trace | None,
    at: NDArray[np.float64],
    seed: np.random.SeedSequence,
) -> NDArray[np.int32]:
    popularity, fan_out = scenario.tasks.popularity, scenario.tasks.fan_out
    named: tuple[str, ...] = ()
    if trace is not None and trace.tasks:
        named = trace.tasks
    elif popularity.kind == "trace":
        assert popularity.file is not None
        named = read_names(Path(popularity.file))
    if not named:
        return draws(popularity, len(tasks), at, fan_out, seed)
    if fan_out > 1:
        raise ScenarioError(scenario.name, ("a trace names one task a request, so no fan_out",))
    order = _indices(scenario, "task", named, tasks)
    return np.resize(order, len(at))[:, None].astype(np.int32)


def _indices(
    scenario: Scenario, what: str, named: Sequence[str], known: Sequence[str]
) -> NDArray[np.int64]:
    place = {name: i for i, name in enumerate(known)}
    if missing := sorted(set(named) - place.keys()):
        shown = ", ".join(missing[:5])
        raise ScenarioError(scenario.name, (f"the trace names no {what} of this run: {shown}",))
    return np.array([place[name] for name in named], np.int64)


def _effective(scenario: Scenario, chosen: NDArray[np.int32], tasks: int) -> float:
    popularity = scenario.tasks.popularity
    if popularity.kind == "trace" or isinstance(scenario.arrivals, Replay):
        counts = np.bincount(chosen[chosen < tasks].ravel(), minlength=tasks)
        return effective(counts / max(counts.sum(), 1))
    return effective(odds(popularity, tasks))
