"""One server at a time: started on a free port, waited for, stopped with all it has begun.

Knows commands and environments of every system, and no figure.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Self

from loadtest.peers.errors import PeerError
from loadtest.peers.processes import MARK, Family, free_bytes
from loadtest.peers.systems import Settings, System
from loadtest.peers.workplace import Workplace

SCRIPTS: Final = Path(__file__).parent / "servers"
_PORTS: Final = range(10240, 29440)
_RAY_PORTS: Final = 40  # HAProxy's, the fallback proxy's, and those of replicas
_STOP_S: Final = 15.0
_SWEEP_S: Final = 10.0
_FREE_BYTES_MIN: Final = 1 << 30
_LAST_WORDS: Final = 700


class Server:
    """A running system; use it as a context."""

    def __init__(
        self,
        system: System,
        interpreter: Path,
        settings: Settings,
        place: Workplace,
        live: Path,
        port: int | None = None,
    ) -> None:
        """Start it, and do not wait."""
        self.system, self.live = system, live
        self._with = interpreter, settings, place
        ports = _free_ports(1 + _RAY_PORTS)
        self.port = ports[0] if port is None else port
        self._own = Path(tempfile.mkdtemp(prefix="rsp-"))  # short: Ray has sockets in it
        self._log = place.folder / f"{live.name}-{self.port}.log"
        mark = uuid.uuid4().hex
        command, variables = launch(
            system, interpreter, settings, place, live, self.port, self._own, ports[1:]
        )
        self.began = time.monotonic()
        with self._log.open("wb") as log:
            self._root = subprocess.Popen(  # noqa: S603 (a table of ours)
                command,
                env={**os.environ, **variables, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._own,
                start_new_session=True,  # Ctrl-C is for the one that will stop it
            )
        self._family = Family(self._root.pid, mark)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def check(self) -> None:
        """See that it is alive and leaves memory to others.

        Raises:
            PeerError: with its last words.
        """
        if self._root.poll() is not None:
            raise PeerError(
                self.system.name, f"it ended ({self._root.returncode}): {self.last_words()}"
            )
        if free_bytes() < _FREE_BYTES_MIN:
            held = self.pss_bytes() / 1e9
            raise PeerError(self.system.name, f"it does not fit in memory: it holds {held:.1f} GB")

    def wait(self, timeout_s: float) -> None:
        """Until its first process ends by itself, at most so long."""
        with suppress(subprocess.TimeoutExpired):
            self._root.wait(timeout_s)

    def living(self) -> list[int]:
        """Its processes."""
        return self._family.living()

    def pss_bytes(self) -> int:
        """Memory of all its processes, shared pages counted once."""
        return self._family.pss_bytes()

    def last_words(self) -> str:
        """The end of what it wrote."""
        lines = self._log.read_text(errors="replace").strip()[-_LAST_WORDS:].splitlines()
        return " | ".join(line.strip() for line in lines[-6:]) or "it said nothing"

    def stop(self) -> None:
        """Ask it to end, then end whatever is left; bounded.

        Raises:
            PeerError: something would not die.
        """
        self._family.living()  # whose sessions are to be known once it is gone
        with suppress(ProcessLookupError):
            self._root.send_signal(signal.SIGTERM)
        self.wait(_STOP_S)
        gone = self._family.end(_SWEEP_S)
        self._root.wait(_SWEEP_S)
        shutil.rmtree(self._own, ignore_errors=True)
        if not gone:
            raise PeerError(self.system.name, "processes of it could not be ended")

    def again(self) -> "Server":
        """Stop it, and start another on the same port.

        Raises:
            PeerError
        """
        self.stop()
        return Server(self.system, *self._with, self.live, self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def launch(
    system: System,
    interpreter: Path,
    settings: Settings,
    place: Workplace,
    live: Path,
    port: int,
    own: Path,
    ports: range,
) -> tuple[list[str], dict[str, str]]:
    """Command and variables that start a system.

    Args:
        system: which.
        interpreter: of its environment.
        settings: of its grid.
        place: tasks and network.
        live: what it is to serve.
        port: to listen on.
        own: a folder for itself.
        ports: others that it may take.
    """
    threads = str(settings.get("torch_threads", settings.get("threads", os.cpu_count() or 1)))
    variables = {
        # A thread that spins at a barrier takes the core from whom it waits for.
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "1",
        "BENTOML_DO_NOT_TRACK": "1",
        "BENTOML_HOME": str(own / "bentoml"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }
    if system.ours:
        order = place.order
        command = [str(interpreter), "-m", "rootstock", "serve", "--store", str(live)]
        command += ["--backbone", order.backbone, "--dtype", order.dtype, "--device", "cpu"]
        command += [] if order.weights is None else ["--weights", str(order.weights.absolute())]
        for name, value in settings.items():
            command += [f"--{name}", str(value)]
        del variables["OMP_NUM_THREADS"]  # as a user starts it
        return [*command, "--port", str(port)], variables
    if system.name == "ray":
        settings = {**settings, "ray_folder": str(own)}
        variables |= _ray_variables(settings, own, ports)
    asked: dict[str, Any] = {"folder": str(place.folder), "live": str(live)}
    if system.name == "bentoml":
        variables["ROOTSTOCK_PEER_ORDER"] = json.dumps({**asked, "settings": dict(settings)})
        command = [str(interpreter), "-m", "bentoml", "serve", "bentoml_server:Tasks"]
        command += ["--working-dir", str(SCRIPTS), "--host", "127.0.0.1", "--port", str(port)]
        return command, variables
    command = [str(interpreter), str(SCRIPTS / f"{system.name}_server.py")]
    asked |= {"port": port, "settings": json.dumps(dict(settings))}
    return [*command, *(f"--{name}={value}" for name, value in asked.items())], variables


def _ray_variables(settings: Mapping[str, Any], own: Path, ports: range) -> dict[str, str]:
    """Files and ports of one machine's own, as several Serves on it need them; and its ingress."""
    half = (len(ports) - 4) // 2
    http, grpc = ports[4 : 4 + half], ports[4 + half : 4 + 2 * half]
    on = "1" if settings["ingress"] == "haproxy" else "0"
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": on,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": on,
        **({} if on == "1" else {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(own / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(own / "admin"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(own / "log"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(own),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(own / "state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports[0]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports[1]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports[2]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports[3]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(http.stop),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(grpc.stop),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.5",
        "RAY_worker_niceness": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_memory_monitor_refresh_ms": "0",
    }


def _free_ports(count: int) -> range:
    """So many in a row that nobody has just now.

    Raises:
        PeerError: there are none.
    """
    for _ in range(200):
        start = random.randrange(_PORTS.start, _PORTS.stop - count)  # noqa: S311 (no secret)
        with ExitStack() as stack, suppress(OSError):
            for port in range(start, start + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return range(start, start + count)
    raise PeerError("ports", f"no {count} free ports in a row")
