"""What a broadcast may ask of every replica, door or engine. Knows neither Ray nor HTTP."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from adapters_store.errors import RootstockError
from adapters_store.manifest import BackboneRef
from serving import keeping
from serving.config import Settings
from serving.router import route
from serving.sync import Follower
from serving.telemetry import Telemetry
from serving.types import Arriving, Kind

_FAILING_SHOWN: Final = 20


class Member(Protocol):
    """A replica of any kind."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def follower(self) -> Follower: ...
    @property
    def residency(self) -> Arriving: ...
    @property
    def telemetry(self) -> Telemetry: ...
    @property
    def generation(self) -> int: ...

    def refused(self, digest: str) -> bool: ...

    def ready(self) -> tuple[bool, dict[str, Any]]: ...


def standing(
    member: Member, refused: frozenset[str], backbone: BackboneRef, dtype: str
) -> dict[str, Any]:
    """What a replica says of itself, for a reader.

    Args:
        member: the replica.
        refused: digests that are known never to be served there.
        backbone: whose tasks they are.
        dtype: in which it is computed.
    """
    tasks = member.follower.view.catalog.tasks.values() if refused else ()
    failing = sorted(
        state.name
        for state in tasks
        if not state.retired
        and state.active is not None
        and (release := state.find(state.active)) is not None
        and release.digest in refused
    )
    return {
        "replica": member.name,
        "kind": member.kind.value,
        "generation": member.generation,
        "store": member.follower.state,
        "failing": failing[:_FAILING_SHOWN],
        "backbone": backbone.name,
        "digest": backbone.digest,
        "dtype": dtype,
    }


def _catch_up(member: Member, generation: int, timeout_s: float) -> dict[str, Any]:
    member.follower.ensure(generation, timeout_s)
    return {"replica": member.name, "kind": member.kind.value, "generation": member.generation}


def _status(member: Member) -> dict[str, Any]:
    ready, status = member.ready()
    return {"ready": ready, **status}


def _metrics(member: Member) -> tuple[str, Any]:
    return member.name, member.telemetry.snapshot()


def _task(member: Member, task: str) -> dict[str, Any]:
    """What this replica answers with for a task, or why it does not."""
    view = member.follower.view
    who = {"replica": member.name, "kind": member.kind.value, "generation": member.generation}
    try:
        way = route(view.catalog, task, None, view.verified, member.refused)
    except RootstockError as error:  # a raise would make this replica the one that is missing
        return {**who, "release": None, "digest": None, "detail": str(error)}
    return {**who, "release": way.release, "digest": way.digest}


def _load(member: Member, task: str) -> RootstockError | None:
    return keeping.load(member.follower, member.residency, task, member.settings.load_s)


def _unload(member: Member, task: str) -> RootstockError | None:
    return keeping.unload(member.follower, member.residency, task)


CALLS: Final[Mapping[str, Callable[..., Any]]] = {
    "catch_up": _catch_up,
    "status": _status,
    "metrics": _metrics,
    "task": _task,
    "load": _load,
    "unload": _unload,
}
# Those that only look. The others may wait for a store or a load, and whole rows of them come at
# once when much is published: how a replica is must be known all the same.
QUICK: Final = frozenset({"status", "metrics", "task"})
