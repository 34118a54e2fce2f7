"""Before a pod goes: let Ray move its replicas elsewhere, and wait until it has.

On SIGTERM `ray start --block` tells the cluster that its node is about to go: Serve starts
replacements on other nodes and lets the replicas here finish, for as long as
RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S says. But in a pod a shell is the first process, which hands
no signal on; so this does.
"""
# ruff: noqa: INP001 (mounted as one file)

import os
import signal
import time
from pathlib import Path

POLL_S = 0.5


def starters(proc: Path = Path("/proc")) -> list[int]:
    """Processes that are `ray start --block`, by their number."""
    found = []
    for entry in proc.glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:  # gone by now
            continue
        # The words stand alone: in a shell's command line they are one.
        if b"start" in words and b"--block" in words and any(w.endswith(b"ray") for w in words):
            found.append(int(entry.parent.name))
    return found


def main() -> None:
    """Hand the signal on; Kubernetes bounds how long this waits."""
    for pid in starters():
        os.kill(pid, signal.SIGTERM)
    while starters():
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
