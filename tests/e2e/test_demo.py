"""The demonstration, as a newcomer runs it."""

import json
import socket
import subprocess
import sys

import pytest

from serving.launch import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_the_demo_ends_by_itself_with_no_request_lost(tmp_path):
    command = [sys.executable, "-m", "rootstock", "demo", "--port", str(free_port()), "--json"]

    done = subprocess.run(
        [*command, "--keep", str(tmp_path / "kept")],
        capture_output=True,
        text=True,
        timeout=550,
        stdin=subprocess.DEVNULL,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    value = json.loads(done.stdout)
    assert {r["task"] for r in value["rows"]} == {"digits", "parity", "loops"}
    assert all(r["failed"] == 0 and r["answered"] == 797 for r in value["rows"])
    assert all(r["path"] == "mixed" for r in value["rows"])
    accuracy = {r["task"]: r["accuracy"] for r in value["rows"]}
    assert accuracy["digits"] > 0.93, "ALoRE beats the linear probe's 92.3 %"
    assert accuracy["parity"] > 0.95
    assert accuracy["loops"] > 0.90
    swap = value["swap"]
    assert swap["failed"] == 0
    assert swap["stale"] == 0
    assert set(swap["by_release"]) == {"1", "2"}
    assert (tmp_path / "kept" / "digits.safetensors").is_file()


def test_a_taken_port_is_said_before_anything_is_trained():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "rootstock", "demo", "--port", str(taken.getsockname()[1])],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    assert done.returncode == 1
    assert "cannot listen" in done.stderr or "in use" in done.stderr
    assert "Traceback" not in done.stderr
