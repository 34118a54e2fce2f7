"""The process that holds Ray for `launch.py`; ends when its standard input does. No policy here.

On stdin comes one line, the settings; then nothing, until end of file says stop. On stdout goes
one line, `{"failed": null, or why}`. Stderr has what replicas log; all the rest is in a file.
"""

import _thread
import contextlib
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, TextIO

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig, TracingConfig

from serving.app import APPLICATION, LOG, RUN_VARIABLE, build, cpus, timeouts_s
from serving.config import Megabytes, Settings
from serving.front import LEAVING_VARIABLE
from serving.launch import processes

_FRONT_STOP_S: Final = 1.0
_SERVE_STOP_S: Final = 12.0


def main() -> NoReturn:
    """Start, say how that went, serve until told to stop, stop."""
    say = os.fdopen(os.dup(1), "w")
    sys.stderr = replicas = _Replicas(os.fdopen(os.dup(2), "w"))
    log = os.open(
        Path(os.environ[RUN_VARIABLE]) / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
    )
    os.dup2(log, 1)
    os.dup2(log, 2)
    settings = Settings.model_validate_json(sys.stdin.readline())
    replicas.json = settings.log_format == "json"
    signal.signal(signal.SIGINT, _leave)
    threading.Thread(target=_watch, daemon=True).start()
    try:
        failed = _start(settings)
        say.write(json.dumps({"failed": failed}) + "\n")
        say.flush()
        while failed is None:
            time.sleep(0.1)
    except SystemExit:  # _leave
        pass
    finally:
        _stop()
        shutil.rmtree(os.environ[RUN_VARIABLE], ignore_errors=True)
    os._exit(0)


class _Replicas(io.TextIOBase):
    """Where Ray prints: lines of replicas go to `reader`, all lines to the log."""

    _PREFIX: Final = re.compile(r"\(ServeReplica:\S+ pid=(\d+)\) ")

    def __init__(self, reader: TextIO) -> None:
        self._reader, self._begun = reader, ""
        self.json = False  # each line that a reader gets is to be JSON

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            os.write(2, f"{line}\n".encode())
            if found := self._PREFIX.match(line):
                self._reader.write(self._worded(found[1], line[found.end() :]) + "\n")
                self._reader.flush()
        return len(text)

    def _worded(self, pid: str, said: str) -> str:
        if not self.json:
            return f"[replica {pid}] {said}"
        if said.startswith("{") and said.endswith("}"):  # it says itself who says it
            return said
        return json.dumps({"message": said, "process": int(pid)})


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit


def _watch() -> None:
    """End this process when the one that started it closes the pipe or is gone."""
    sys.stdin.read()
    _thread.interrupt_main()  # like SIGINT, but Ray prints no stack for it


def _start(settings: Settings) -> str | None:
    """Ray, Serve and the application; None, or why not."""
    logging.getLogger("ray").setLevel(logging.WARNING)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = LoggingConfig(
        log_level="WARNING", enable_access_log=False, encoding=settings.log_format.upper()
    )
    try:
        ray.init(
            address="local",
            num_cpus=cpus(settings) + 1,
            include_dashboard=False,
            object_store_memory=256 * Megabytes,
            logging_level=logging.WARNING,
            _temp_dir=os.environ[RUN_VARIABLE],
        )
        serve.start(
            http_options=HTTPOptions(
                host=settings.host,
                port=settings.port,
                request_timeout_s=timeouts_s(settings)[0],
            ),
            logging_config=quiet,
            tracing_config=TracingConfig(
                enabled=bool(settings.traces),
                exporter_import_path=settings.traces,
                sampling_ratio=settings.traces_share,
            ),
        )
        serve.run(build(settings), name=APPLICATION, route_prefix="/", logging_config=quiet)
    except Exception as error:  # noqa: BLE001 (its text is the answer)
        return _replica_reason() or reason(error)
    return None


def reason(error: BaseException) -> str:
    """What went wrong in one line; of an error in a Ray process, what it was there."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    return " ".join(f"{type(error).__name__}: {error}".split())


def _replica_reason() -> str:
    """What a replica's constructor said last; empty when it is not to blame."""
    if not ray.is_initialized():
        return ""
    for application in serve.status().applications.values():
        for deployment in application.deployments.values():
            if lines := deployment.message.strip().splitlines():
                return str(lines[-1].partition("ReplicaUnbuiltError: ")[2] or lines[-1])
    return ""


def _stop() -> None:
    """Drain and end Serve, then Ray; whoever started us bounds this and sweeps after it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if ray.is_initialized():
        draining = threading.Thread(target=_drain, daemon=True)
        draining.start()
        draining.join(_SERVE_STOP_S)
        ray.shutdown()


def _drain() -> None:
    """Close the door, let replicas finish what they hold, and only then end Serve."""
    _close_front()
    serve.delete(APPLICATION)
    serve.shutdown()


def _close_front() -> None:
    """Refuse what comes from now on; let HAProxy take no more connections, and end."""
    Path(os.environ[LEAVING_VARIABLE]).touch()
    deadline = time.monotonic() + _FRONT_STOP_S
    for pid in _haproxies():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    while _haproxies() and time.monotonic() < deadline:
        time.sleep(0.02)


def _haproxies() -> list[int]:
    found = []
    for pid in processes(os.getpid()):
        with contextlib.suppress(OSError):  # gone by now
            if Path(f"/proc/{pid}/exe").readlink().name == "haproxy":
                found.append(pid)
    return found


if __name__ == "__main__":
    main()
