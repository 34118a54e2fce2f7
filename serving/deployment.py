"""The Ray shells around replicas: when things run, and on which thread. They decide nothing.

In throughput mode this code shares its event loop with Serve itself, so nothing here may block:
whatever can take longer than a moment runs on a thread of its own.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from fastapi import FastAPI
from ray import serve
from ray.serve._private import replica as serve_replica
from ray.serve.handle import DeploymentHandle

from adapters_store.errors import RootstockError
from adapters_store.spec import BackboneSpec
from serving import lines, tokens
from serving.calls import QUICK
from serving.config import Settings
from serving.fleet import RayFleet, RayWire
from serving.lanes import Lanes
from serving.pulse import beat
from serving.types import Answer, Card, Sample

if TYPE_CHECKING:
    from serving.door import Door
    from serving.engine_room import EngineRoom

log = logging.getLogger(__name__)
O = TypeVar("O")  # noqa: E741 (an outcome)
I = TypeVar("I", "Door", "EngineRoom")  # noqa: E741 (what is inside)

NAME: Final = "rootstock"  # what speaks HTTP
ENGINE_NAME: Final = "engine"

# After which a thread that wants the interpreter gets it. An engine asks for it back after each
# of hundreds of operations; Python's 5 ms would have it wait for whole requests each time.
SWITCH_S: Final = 0.0002


class ReplicaUnbuiltError(RuntimeError):
    """The replica could not be built; the last line of Serve's report is this reason."""


class ReplicaUnwellError(RuntimeError):
    """Raised to Serve, which replaces a replica whose health check keeps failing."""


class Shell:
    """One replica as Ray Serve sees it, whatever is inside."""

    def __init__(
        self, settings_json: str, check: Callable[[Settings], None], *, on_loopback: bool
    ) -> None:
        """Build nothing yet.

        Args:
            settings_json: of `Settings`.
            check: raises where Ray's environment on this node does not fit.
            on_loopback: no other node has to reach this one.
        """
        sys.setswitchinterval(SWITCH_S)
        self._settings, self._check = Settings.model_validate_json(settings_json), check
        lines.speak(self._settings.log_format)
        self._lanes = Lanes()
        self._aside = self._lanes.aside
        self._inside: Door | EngineRoom | None = None
        self._pulse: asyncio.Task[NoReturn] | None = None
        if on_loopback:
            _stay_on_loopback()

    async def call(self, method: str, *args: Any) -> Any:
        """The target of every broadcast.

        Raises:
            ReplicaUnwellError: it is gone already.
        """
        if self._inside is None:
            raise ReplicaUnwellError("closed")
        lane = self._lanes.look if method in QUICK else self._lanes.aside
        return await lane(self._inside.call, method, *args)

    async def check_health(self) -> None:
        """Asked by Serve; on the loop itself, so that busy threads do not look like sickness.

        Raises:
            ReplicaUnwellError: the replica says so.
        """
        if self._inside is not None and not self._inside.healthy():
            raise ReplicaUnwellError("the batcher hangs")

    def _begin(self, inside: "Door | EngineRoom") -> None:
        """It is built; from now on it is called."""
        self._inside = inside
        self._pulse = asyncio.get_running_loop().create_task(beat(inside.telemetry))

    async def __del__(self) -> None:
        """Called once by Serve after the last request was answered."""
        if self._pulse is not None:
            self._pulse.cancel()
        if self._inside is not None:
            inside, self._inside = self._inside, None
            await asyncio.get_running_loop().run_in_executor(None, inside.close)
        self._lanes.close()


class DoorShell(Shell):
    """A replica that speaks HTTP: with an engine inside, or with engines across a hop."""

    def __init__(
        self,
        settings_json: str,
        check: Callable[[Settings], None],
        engines: "DeploymentHandle[Any] | None" = None,
        *,
        on_loopback: bool,
    ) -> None:
        """See `Shell`; `engines` are those of topology `split`."""
        super().__init__(settings_json, check, on_loopback=on_loopback)
        self._engines = engines

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the replica, which takes seconds, and then the HTTP in front of it.

        Raises:
            ReplicaUnbuiltError: whatever went wrong, in one line.
        """
        here = serve.get_replica_context()
        with _said_in_one_line():
            self._settings = settings = tokens.given(self._settings)
            self._check(settings)
            replicas = {here.deployment: settings.http_replicas}
            if self._engines is None:
                door = await self._aside(_fused, settings, here.replica_tag)
            else:
                replicas[ENGINE_NAME] = settings.replicas
                engines = RayFleet(here.app_name, {ENGINE_NAME: settings.replicas})
                wire = RayWire(self._engines, engines)
                spec, group_max = await wire.spec(), await wire.batch_max()
                door = await self._aside(
                    _split,
                    settings,
                    here.replica_tag,
                    spec,
                    group_max,
                    wire,
                    asyncio.get_running_loop(),
                )
            self._begin(door)
            fleet = RayFleet(here.app_name, replicas, scaled=settings.autoscale)
            return await self._aside(_http, door, fleet)


class EngineShell(Shell):
    """An engine of topology `split`. Errors are answers like others: Ray would wrap raised ones."""

    _inside: "EngineRoom | None"

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings_json: str, check: Callable[[Settings], None], *, on_loopback: bool
    ) -> None:
        """Build the engine, which takes seconds.

        Raises:
            ReplicaUnbuiltError: whatever went wrong, in one line.
        """
        super().__init__(settings_json, check, on_loopback=on_loopback)
        with _said_in_one_line():
            self._check(self._settings)
            name = serve.get_replica_context().replica_tag
            self._begin(await self._aside(_engine, self._settings, name))

    async def compute(
        self, group: Sequence[Sample], *, patient: bool
    ) -> Sequence[Answer | BaseException]:
        """Answers to a group, in order."""
        outcomes = await self._room.compute(group, patient=patient)
        return [_plain(outcome) for outcome in outcomes]

    async def card(self, digest: str) -> Card | Exception:
        """What a door must know of an adapter."""
        try:
            return await self._room.card(digest)
        except Exception as error:  # noqa: BLE001
            return _plain(error)

    async def install(self, digest: str, data: bytes, task: str) -> Card | Exception:
        """The same of one that is about to be published, once it has been verified."""
        try:
            return await self._aside(self._room.install, digest, data, task)
        except Exception as error:  # noqa: BLE001
            return _plain(error)

    async def spec(self) -> BackboneSpec:
        """Of the backbone."""
        return self._room.spec

    async def batch_max(self) -> int:
        """Forwards in one batch, as measured here."""
        return self._room.batcher.batch_max

    @property
    def _room(self) -> "EngineRoom":
        if self._inside is None:
            raise ReplicaUnwellError("closed")
        return self._inside


def _plain(outcome: O) -> O | RuntimeError:
    """The same, where a door knows its class; what was not raised on purpose only as text."""
    if not isinstance(outcome, BaseException) or isinstance(outcome, RootstockError):
        return outcome
    log.error("a sample failed", exc_info=outcome)
    return RuntimeError(f"{type(outcome).__name__}: {outcome}")


@contextmanager
def _said_in_one_line() -> Iterator[None]:
    """Whatever goes wrong, as Serve's report should end."""
    try:
        yield
    except Exception as error:
        name = "" if isinstance(error, RootstockError) else f"{type(error).__name__}: "
        raise ReplicaUnbuiltError(name + " ".join(str(error).split())) from error


# What is inside is imported where it runs: torch is half a gigabyte and ten seconds, and whoever
# only deploys these classes needs none of it.


def _fused(settings: Settings, name: str) -> "Door":
    from serving.replica import Replica  # noqa: PLC0415

    return _told_apart(Replica(settings, name))


def _split(
    settings: Settings,
    name: str,
    spec: BackboneSpec,
    group_max: int,
    wire: RayWire,
    loop: asyncio.AbstractEventLoop,
) -> "Door":
    from serving.split_door import split_door  # noqa: PLC0415

    return _told_apart(split_door(settings, name, spec, group_max, wire, loop))


def _engine(settings: Settings, name: str) -> "EngineRoom":
    from serving.engine_room import EngineRoom  # noqa: PLC0415

    return _told_apart(EngineRoom(settings, name))


def _http(door: "Door", fleet: RayFleet) -> FastAPI:
    from serving import api  # noqa: PLC0415

    return api.build(door, fleet)


def _told_apart(inside: I) -> I:
    """The same, with what it was built from among its metrics."""
    inside.telemetry.set(
        "rootstock_build_info",
        1,
        version=next((d.version for d in distributions(name="rootstock")), "unknown"),
        backbone=inside.settings.backbone,
        dtype=inside.settings.dtype,
        device=inside.settings.device,
    )
    return inside


def _stay_on_loopback() -> None:
    """Keep Serve's port between replicas off the network: it unpickles whatever it is sent.

    Serve 2.60 binds it to every interface, with no setting for it.
    """
    bind = serve_replica.add_port_to_grpc_server

    def bind_loopback(server: Any, address: str) -> int:
        return int(bind(server, address.replace("[::]", "127.0.0.1")))

    serve_replica.add_port_to_grpc_server = bind_loopback
