"""A full disk: one clear error, nothing half-written, and room can be made.

The limit on a file's size works everywhere; a file system of two megabytes needs a kernel that
lets users mount one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters_store.objects import Objects
from adapters_store.store import AdapterStore

FOLDER = "0123456789abcdef"
ROOT = Path(__file__).parents[3]
SCRIPT = """
import os, resource, signal, sys
from datetime import timedelta
from pathlib import Path

from adapters_store.errors import StoreFullError
from adapters_store.objects import Objects
from adapters_store.store import AdapterStore

class Later(Objects):
    def now(self):
        return super().now() + timedelta(hours=25)

def refused(act):
    try:
        act()
    except StoreFullError as error:
        print(error)
    else:
        raise AssertionError("there was room")

def limited(most):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

def filled(left):
    with open(Path(place).parent / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            file.truncate(file.tell() - left)

place, kind = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
full = filled if kind == "disk" else limited
store = AdapterStore(Objects.open(place, "0123456789abcdef"))
store.publish(bytes(300_000), "flowers", by="ann")
store.publish(b"two", "flowers", by="ann")
store.retire("flowers", 1, by="ann")

full(8192)  # an event has room, an artifact has not
refused(lambda: store.publish(bytes(400_000), "flowers", by="ann"))
assert store.catalog().generation == 3
assert store.verify().faults == ()
full(0)  # nothing has
refused(lambda: store.activate("flowers", 2, by="ann"))
refused(lambda: AdapterStore(Objects.open(place, "0123456789abcdef")).retire("flowers", by="ann"))
assert store.catalog().generation == 3
report = AdapterStore(Later.open(place, "0123456789abcdef")).gc()
assert (report.freed_bytes, report.named) == (300_000, 1), report
if kind == "disk":  # what was collected is room again
    assert store.publish(bytes(200_000), "flowers", by="ann").release.number == 3
assert store.verify().faults == ()
left = {p.name.rpartition(".")[2] for p in Path(place).rglob("*") if p.is_file()}
assert left == {"json", "safetensors"}, left
"""


def said(*words: str) -> list[str]:
    run = subprocess.run(
        [*words],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_a_file_that_may_not_grow_is_not_published(tmp_path):
    """Refused with one line; no event, no draft, and the store can still be collected."""
    place = tmp_path / "store"

    lines = said(sys.executable, "-c", SCRIPT, str(place), "limit")

    assert lines == [f"store {place}: File too large"] * 3
    store = AdapterStore(Objects.open(str(place), FOLDER))
    assert store.publish(bytes(400_000), "flowers", by="ann").generation == 4, "room was made"
    assert store.verify().faults == ()


def test_a_full_disk_is_said_and_does_no_harm(tmp_path):
    """The same on a file system that is really full; collecting makes room on it."""
    alone = ("unshare", "--user", "--map-root-user", "--mount")
    mount = f"mount -t tmpfs -o size=2m none {tmp_path}"
    try:
        subprocess.run([*alone, "sh", "-c", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    place = tmp_path / "store"

    lines = said(
        *(*alone, "sh", "-c", f'{mount} && exec "$@"', "sh"),
        *(sys.executable, "-c", SCRIPT, str(place), "disk"),
    )

    assert lines == [f"store {place}: No space left on device"] * 3
