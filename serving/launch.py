"""A whole server on this machine: starts it, waits until it answers, leaves nothing behind.

Ray lives in a process of its own, the host (`host.py`): its environment stands before Python
does, a Ctrl-C of the terminal does not reach it, and it ends when this process ends, however that
happens. Nothing here imports Ray.
"""

import contextlib
import http.client
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, Self

from adapters_store.errors import RootstockError
from serving.app import LOG, RunPaths, environment, ports_wanted
from serving.config import Settings

# HAProxy dials replicas at 127.0.0.1, where they listen only for these.
HAPROXY_HOSTS: Final = ("127.0.0.1", "localhost", "0.0.0.0")  # noqa: S104 (a name, not a binding)

# Both below the ports that the system gives out by itself; a run has one cell.
_CELLS: Final = range(10240, 29440, 640)
_PUBLIC: Final = range(29440, 32768)
# So that `<folder>/<node, 56>/admin.<pid>.tmp` of HAProxy fits a socket's 107 bytes; Ray's own,
# `<folder>/session_<time and pid, 34>/sockets/plasma_store`, are no longer.
_FOLDER_BYTES_MAX: Final = 30
_SWEEP_S: Final = 3.0


class LaunchError(RootstockError):
    """The server did not come up; `reason` is what the replica or Ray says."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the server did not start: {self.reason}"


def run(settings: Settings, *, timeout_s: float = 120.0, quiet: bool = True) -> "Running":
    """Start a server and wait until it answers `/readyz`; `quiet` hides what replicas log.

    Raises:
        LaunchError: the port is taken, or with the replica's own reason; nothing is left running.
    """
    check_address(settings)
    paths, anchor = reserve(settings)
    running = Running(settings, paths, anchor, quiet=quiet)
    try:
        running.await_ready(time.monotonic() + timeout_s)
    except BaseException:
        running.stop()
        raise
    return running


def check_address(settings: Settings) -> None:
    """See that the public port can be had.

    Raises:
        LaunchError
    """
    if settings.ingress == "haproxy":
        if not sys.platform.startswith("linux"):
            raise LaunchError("the haproxy ingress needs Linux; use the python ingress")
        if settings.host not in HAPROXY_HOSTS:
            known = " or ".join(HAPROXY_HOSTS)
            raise LaunchError(f"the haproxy ingress binds {known}; use the python ingress")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            where, why = f"{settings.host} port {settings.port}", error.strerror or str(error)
            raise LaunchError(f"cannot listen on {where}: {why.lower()}") from None


def free_port() -> int:
    """A port of this machine that nobody has just now and that no connection will be given.

    Raises:
        LaunchError: none is free.
    """
    for port in random.sample(_PUBLIC, len(_PUBLIC)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise LaunchError(f"no port is free from {_PUBLIC.start} to {_PUBLIC.stop - 1}")


def reserve(settings: Settings) -> tuple[RunPaths, socket.socket]:
    """A folder and ports that no other run has; closing the socket gives the ports back.

    Raises:
        LaunchError: no ports are free.
    """
    wanted = ports_wanted(settings.http_replicas)
    for start in random.sample(_CELLS, len(_CELLS)):
        ports = range(start + 1, start + 1 + wanted)
        if settings.port not in (start, *ports) and (anchor := _anchor(start, wanted)):
            break
    else:
        raise LaunchError(f"no {wanted} free ports in a row below {_CELLS.stop}")
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _FOLDER_BYTES_MAX - len("/rs-12345678"):
        parent = "/tmp"  # noqa: S108 (mkdtemp makes a folder of our own in it)
    return RunPaths(Path(tempfile.mkdtemp(prefix="rs-", dir=parent)), ports), anchor


def _anchor(start: int, others: int) -> socket.socket | None:
    """The first port of a cell, held if it and the others were free: two runs cannot both."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        held = [stack.enter_context(socket.socket()) for _ in range(1 + others)]
        for port, sock in enumerate(held, start):  # bound, not listening: other binds fail
            sock.bind(("", port))
        return held[0].dup()
    return None


class Running:
    """A server of this process: stop it, or use it as a context."""

    def __init__(
        self, settings: Settings, paths: RunPaths, anchor: socket.socket, *, quiet: bool
    ) -> None:
        self.settings, self.paths, self._anchor = settings, paths, anchor
        outside = {n: v for n, v in os.environ.items() if n != "RAY_ADDRESS"}
        here = str(Path(__file__).parents[1])
        path = os.pathsep.join(filter(None, (here, outside.get("PYTHONPATH"))))
        self._host = subprocess.Popen(
            [sys.executable, "-P", "-m", "serving.host"],
            env=outside | environment(settings, paths) | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,  # whose end of file tells the host that we are gone
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            start_new_session=True,
        )
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        self._settings_in, self._outcome = self._host.stdin, self._host.stdout

    @property
    def session(self) -> int:
        """The session that every process of the server is in; its leader holds Ray."""
        return self._host.pid

    @property
    def url(self) -> str:
        """Where it answers, as seen from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.port}"

    def await_ready(self, deadline: float) -> None:
        """Block until `/readyz` says 200; `deadline` is of `time.monotonic`.

        Raises:
            LaunchError
        """
        with contextlib.suppress(BrokenPipeError):
            self._settings_in.write(self.settings.model_dump_json().encode() + b"\n")
            self._settings_in.flush()
        left = max(0.0, deadline - time.monotonic())
        if not select.select([self._outcome], [], [], left)[0]:
            raise LaunchError(f"Ray was not up in time; {self._last_words()}")
        line = self._outcome.readline()
        if not line:
            raise LaunchError(f"Ray ended by itself; {self._last_words()}")
        if reason := json.loads(line)["failed"]:
            raise LaunchError(reason)
        said = ""
        while time.monotonic() < deadline and not self.wait(0):
            status, said = self._readyz()
            if status == 200:
                return
            time.sleep(0.05)
        raise LaunchError(f"{self.url}/readyz did not become 200; {said or self._last_words()}")

    def _readyz(self) -> tuple[int, str]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=2)
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            return response.status, f"it says {response.read(500).decode(errors='replace')}"
        except OSError as error:
            return 0, f"the last attempt said {error}"
        finally:
            connection.close()

    def _last_words(self) -> str:
        log = self.paths.folder / LOG
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        said = " | ".join([line.strip() for line in lines if line.strip()][-3:])
        return f"its last words: {said[-600:]}" if said else "it said nothing"

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the server ended by itself, and end what is left of it; whether it did."""
        if self._host.returncode is None:
            try:
                self._host.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
            sweep(self._host.pid)  # at once, before the number can be anybody else's
        return True

    def stop(self, timeout_s: float = 20.0) -> None:
        """Answer what was accepted, end every process of the run, remove its folder; bounded."""
        if self._anchor.fileno() < 0:
            return
        with contextlib.suppress(BrokenPipeError):
            self._settings_in.close()
        if not self.wait(max(0.0, timeout_s - _SWEEP_S)):
            self._host.kill()
            self.wait()
        self._outcome.close()
        shutil.rmtree(self.paths.folder, ignore_errors=True)
        self._anchor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def sweep(session: int) -> None:
    """End whatever is left of a session of processes."""
    deadline = time.monotonic() + _SWEEP_S
    while (left := processes(session)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def processes(session: int) -> list[int]:
    """Living processes of a session: the number stays taken as long as there is one. Linux only.

    A process whose first thread has ended shows as a zombie while its others still hold its ports.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone by now
            words = (entry / "stat").read_text().rpartition(")")[2].split()
            state, its_session, threads = words[0], int(words[3]), int(words[17])
            if its_session == session and (state not in "ZX" or threads > 1):
                found.append(int(entry.name))
    return found
