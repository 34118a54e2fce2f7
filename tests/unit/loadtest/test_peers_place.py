"""Pins of environments, processes of a family, commands that start systems."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.peers import server, venvs
from loadtest.peers.errors import PeerError
from loadtest.peers.processes import MARK, Family, Process, members
from loadtest.peers.systems import SYSTEMS, named
from loadtest.peers.workplace import Order, Workplace

LOCK = Path(__file__).parents[3] / "requirements.lock"
PEERS = [system.name for system in SYSTEMS if not system.ours]
ORDER = Order("rootstock_nano", None, "bf16", None, 4, (1, 8))
COMPUTING = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors")


@pytest.mark.parametrize("name", PEERS)
def test_every_requirement_of_a_peer_is_pinned_exactly(name):
    found = venvs.pins((venvs.REQUIREMENTS / f"{name}.txt").read_text())

    assert len(found) > 20


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_computes_with_the_versions_that_rootstock_computes_with(name):
    found = venvs.pins((venvs.REQUIREMENTS / f"{name}.txt").read_text())
    ours = dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))

    assert {n: found[n] for n in COMPUTING} == {n: ours[n] for n in COMPUTING}


def test_a_requirement_that_is_no_pin_is_refused():
    with pytest.raises(PeerError, match="torch>=2"):
        venvs.pins("numpy==2.4.6\ntorch>=2\n")


def test_markers_and_extras_are_no_hindrance():
    assert venvs.pins('ray[serve]==2.60.0\nuvloop==0.23.0 ; sys_platform != "win32"\n') == {
        "ray": "2.60.0",
        "uvloop": "0.23.0",
    }


def test_an_environment_that_has_all_pins_is_taken_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(venvs, "REQUIREMENTS", tmp_path)
    (tmp_path / "here.txt").write_text(f"pytest=={pytest.__version__}\n")

    assert venvs.python("here") == Path(sys.executable)


def table(*rows):
    return {
        pid: Process(pid, parent, session, marked=marked) for pid, parent, session, marked in rows
    }


def test_a_family_is_whoever_is_marked_or_descends_or_shares_a_session():
    found = members(
        table(
            (10, 1, 10, False),  # the first
            (11, 10, 10, False),  # its child
            (12, 11, 12, False),  # which leads a session of its own
            (13, 1, 12, False),  # an orphan of that session
            (14, 1, 14, True),  # an orphan that carries the mark
            (20, 1, 20, False),  # somebody else
            (21, 20, 20, False),
        ),
        {10},
    )

    assert found == {10, 11, 12, 13, 14}


def test_a_family_outlives_its_first_process():
    assert members(table((13, 1, 12, False), (20, 1, 20, False)), {10, 12}) == {13}


def test_an_orphan_in_a_session_of_its_own_is_found_and_ended():
    orphan = "import os, sys, time; os.setsid(); print(1, flush=True); time.sleep(600)"
    first = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {orphan!r}])"
    root = subprocess.Popen(
        [sys.executable, "-c", first],
        env={**os.environ, MARK: "a-run-of-this-test"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    family = Family(root.pid, "a-run-of-this-test")
    assert root.stdout.readline() == b"1\n"
    root.wait()

    (left,) = family.living()
    assert left != root.pid
    assert family.pss_bytes() > 0
    assert family.end(10.0)
    assert family.living() == []
    root.stdout.close()


def test_a_server_that_ends_by_itself_is_told_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "SCRIPTS", tmp_path)
    (tmp_path / "peft_server.py").write_text("raise SystemExit('no luck today')\n")
    (peft,) = named("peft")
    place = Workplace(tmp_path, ORDER, ("a", "b"), (), {})
    started = server.Server(peft, Path(sys.executable), peft.grid[0], place, tmp_path)
    try:
        started.wait(60.0)
        with pytest.raises(PeerError, match=r"it ended \(1\): no luck today"):
            started.check()
    finally:
        started.stop()
    assert started.living() == []


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_no_system_spins_at_barriers_or_counts_threads_by_itself(system, tmp_path):
    place = Workplace(tmp_path, ORDER, ("a", "b"), (), {})

    for settings in system.grid:
        command, variables = server.launch(
            system, Path("python"), settings, place, tmp_path, 8000, tmp_path, range(9000, 9040)
        )

        assert variables["OMP_WAIT_POLICY"] == "PASSIVE"
        assert ("OMP_NUM_THREADS" in variables) != system.ours
        assert any("8000" in word for word in command)
