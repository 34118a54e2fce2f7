"""Ray's environment as data, what a run keeps to itself, and the settings' way to a replica."""

import os
import random
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from serving import app, launch
from serving.app import (
    ENVIRONMENT,
    INGRESS,
    ONE_MACHINE,
    EnvironmentUnfitError,
    check_environment,
    environment,
    ports_wanted,
    timeouts_s,
)
from serving.config import Settings, Token
from serving.launch import LaunchError, check_address, free_port, reserve

HAPROXY = Settings(store="memory://")
PYTHON = Settings(store="memory://", ingress="python")


@pytest.fixture
def runs():
    """Two runs of the same server, both still going."""
    held = [reserve(HAPROXY), reserve(HAPROXY)]
    yield [paths for paths, _ in held]
    for paths, anchor in held:
        anchor.close()
        paths.folder.rmdir()


def ports_of(variables: dict[str, str]) -> set[int]:
    """Every port that HAProxy, the proxy behind it and the replicas may take."""
    single = {
        int(value)
        for name, value in variables.items()
        if name.endswith("_PORT") and "_MIN_" not in name and "_MAX_" not in name
    }
    low, high = "RAY_SERVE_DIRECT_INGRESS_MIN_{}_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_{}_PORT"
    ranges = (
        range(int(variables[low.format(kind)]), int(variables[high.format(kind)]))
        for kind in ("HTTP", "GRPC")
    )
    return single.union(*ranges)


def test_two_runs_never_share_a_path_or_a_port(runs):
    """Two servers on one machine have nothing in common but the machine."""
    one, two = (environment(HAPROXY, paths) for paths in runs)

    paths = [{v for v in variables.values() if v.startswith("/")} for variables in (one, two)]
    assert len(paths[0]) == 6
    assert paths[0].isdisjoint(paths[1])
    assert ports_of(one).isdisjoint(ports_of(two))


def test_every_port_of_a_run_has_one_use(runs):
    """Within a run nothing overlaps, and nothing lies outside of what was reserved."""
    paths = runs[0]

    assert ports_of(environment(HAPROXY, paths)) == set(paths.ports)
    assert len(paths.ports) == ports_wanted(HAPROXY.replicas)


def test_ports_are_kept_from_other_runs_until_they_are_given_back(monkeypatch):
    """However the dice fall, a cell belongs to one run at a time."""
    monkeypatch.setattr(launch, "_CELLS", range(27520, 28160, 640))
    paths, anchor = reserve(HAPROXY)
    paths.folder.rmdir()

    with pytest.raises(LaunchError, match="free ports"):
        reserve(HAPROXY)
    anchor.close()
    again, anchor = reserve(HAPROXY)

    assert again.ports == paths.ports
    anchor.close()
    again.folder.rmdir()


def test_a_run_passes_over_ports_that_somebody_uses(monkeypatch):
    """One port taken inside a cell, or the public port in it, rules the cell out."""
    monkeypatch.setattr(launch, "_CELLS", range(26880, 28160, 640))
    monkeypatch.setattr(random, "sample", lambda cells, _: list(cells))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 26890))

        paths, anchor = reserve(HAPROXY)

    anchor.close()
    paths.folder.rmdir()
    assert paths.ports.start == 27521
    paths, anchor = reserve(HAPROXY.model_copy(update={"port": 26883}))
    anchor.close()
    paths.folder.rmdir()
    assert paths.ports.start == 27521


def test_socket_paths_fit_where_the_temp_folder_is_deep(monkeypatch, tmp_path):
    """HAProxy and Ray add up to 67 bytes to the folder; a socket's path ends at 107."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))

    paths, anchor = reserve(HAPROXY)
    anchor.close()

    variables = environment(HAPROXY, paths)
    paths.folder.rmdir()
    node, ray = "f" * 56, "session_2026-11-20_15-14-07_648765_4194304/sockets/plasma_store"
    for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
        folder, file = os.path.split(variables[name])
        assert len(f"{folder}/{node}/{file}.4194304.tmp") <= 107
    assert len(f"{paths.folder}/{ray}") <= 107


def test_an_ingress_sets_its_flags_together():
    """Throughput mode without HAProxy would put replicas on the network: never one alone."""
    flags = "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"

    assert [INGRESS["haproxy"][flag] for flag in flags] == ["1", "1"]
    assert [INGRESS["python"][flag] for flag in flags] == ["0", "0"]
    assert INGRESS["python"]["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"


def test_tables_do_not_contradict_each_other():
    """A variable stands in one table, so that reading one is enough."""
    assert ENVIRONMENT.keys().isdisjoint(ONE_MACHINE)
    for flags in INGRESS.values():
        assert flags.keys().isdisjoint(ENVIRONMENT | ONE_MACHINE)


@pytest.mark.parametrize("settings", [HAPROXY, PYTHON], ids=["haproxy", "python"])
def test_what_a_run_sets_is_what_its_replicas_want(settings, runs):
    """The environment of a run passes the check of the replicas in it."""
    check_environment(settings, environment(settings, runs[0]))


def test_a_replica_refuses_an_environment_that_lacks_what_it_stands_on():
    """`serve run` without our variables fails at once, naming every one of them."""
    with pytest.raises(EnvironmentUnfitError) as caught:
        check_environment(HAPROXY, {"RAY_SERVE_ENABLE_HA_PROXY": "1"})

    text = str(caught.value)
    assert "RAY_SERVE_THROUGHPUT_OPTIMIZED must be 1" in text
    assert "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH" in text
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in text
    assert "RAY_USAGE_STATS_ENABLED" not in text, "that one only makes a warning"


def test_settings_and_environment_must_mean_the_same_ingress():
    """HAProxy's environment under settings for the Python proxy is refused."""
    with pytest.raises(EnvironmentUnfitError, match="RAY_SERVE_ENABLE_HA_PROXY must be 0"):
        check_environment(PYTHON, {**ENVIRONMENT, **INGRESS["haproxy"]})


def test_larger_limits_and_missing_wishes_are_let_through(caplog):
    """More room is fine; a variable that is only wished for makes a warning."""
    found = {**ENVIRONMENT, **INGRESS["haproxy"]}
    found["RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"] = str(2**30)
    del found["RAY_SERVE_LOG_TO_STDERR"]

    check_environment(HAPROXY, found)

    assert [r.fault.partition(" ")[0] for r in caplog.records] == ["RAY_SERVE_LOG_TO_STDERR"]


def test_haproxy_waits_longer_than_serve_and_serve_longer_than_a_request():
    """Whoever is further inside gives up first, so that its answer still gets out."""
    serve_s, haproxy_s = timeouts_s(HAPROXY)

    assert HAPROXY.budget_s + HAPROXY.load_s < serve_s < haproxy_s


@pytest.mark.filterwarnings("ignore")  # Ray's imports, not ours
def test_settings_reach_a_replica_unchanged():
    """The application carries them as JSON, with room for every request that may be inside."""
    full = Settings(
        store="s3://bucket/place",
        weights="/weights.safetensors",
        backbone_kwargs={"img_size": 96, "dynamic": True},
        tokens=(Token(sha256="a" * 64, scopes={"predict", "admin"}, name="anna"),),
        replicas=3,
        threads=2,
        dtype="bf16",
    )

    deployment = app.build(full)._bound_deployment

    assert Settings.model_validate_json(deployment.init_args[0]) == full
    assert deployment.num_replicas == 3
    assert deployment.max_ongoing_requests >= full.in_flight_max
    assert deployment.ray_actor_options["num_cpus"] == 2


@pytest.mark.filterwarnings("ignore")  # Ray's imports, not ours
def test_doors_stand_before_engines_in_split():
    """Doors are what HTTP reaches and need no device; engines are what they are given."""
    split = Settings(
        store="memory://", topology="split", replicas=3, doors=2, device="cuda", decode_threads=4
    )

    doors = app.build(split)._bound_deployment
    engines = doors.init_args[2]._bound_deployment

    assert (doors.name, doors.num_replicas) == ("rootstock", 2)
    assert (engines.name, engines.num_replicas) == ("engine", 3)
    assert doors.ray_actor_options["num_gpus"] == 0
    assert engines.ray_actor_options["num_gpus"] == 1
    assert engines.max_ongoing_requests > split.engine_queue_max
    assert app.cpus(split) == 3 + 2 * 4
    assert ports_wanted(split.http_replicas) == ports_wanted(2)


def test_engines_of_split_take_whatever_doors_let_out():
    """Refusing is a door's: an engine that refused would undo what a door has admitted."""
    fused = Settings(store="memory://", replicas=3)
    split = Settings(store="memory://", replicas=3, doors=4, topology="split")

    assert fused.engine_queue_max == fused.inside_max
    assert split.engine_queue_max == 4 * split.inside_max
    assert split.out_max == 3 * 2 * split.batch_max


def test_a_taken_port_is_told_before_anything_starts():
    """One line that names the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(LaunchError, match=rf"cannot listen on 127\.0\.0\.1 port {port}: addr"):
            check_address(HAPROXY.model_copy(update={"port": port}))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the range is a file of Linux")
def test_no_connection_is_given_a_free_port_before_the_server_binds_it():
    """A port of the system's own range can go to any client while the server starts."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    ports = {free_port() for _ in range(20)}

    assert max(ports) < first
    assert not ports & {port for cell in launch._CELLS for port in range(cell, cell + 640)}


@pytest.mark.filterwarnings("ignore")  # Ray's imports, not ours
def test_a_failed_start_is_told_by_what_failed_and_not_by_where_ray_ran_it():
    """Ray's own first line names an actor and a process, and no reason."""
    from ray.exceptions import RayTaskError

    from serving.host import reason

    error = RayTaskError("ready", "Traceback …", RuntimeError("HAProxy crashed:\n cannot bind"))

    assert reason(error.as_instanceof_cause()) == "RuntimeError: HAProxy crashed: cannot bind"


def test_haproxy_is_refused_where_it_could_not_reach_its_replicas():
    """It dials 127.0.0.1, so a replica that listens on another address would never answer."""
    with pytest.raises(LaunchError, match="python ingress"):
        check_address(HAPROXY.model_copy(update={"host": "192.168.1.7"}))


def test_starting_a_server_imports_neither_ray_nor_torch_here():
    """The variables must stand before Ray is imported, and a command should start quickly."""
    code = "import sys, serving.launch; print({'ray', 'torch', 'fastapi'} & set(sys.modules))"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "set()"
