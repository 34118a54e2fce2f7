"""The load tester against a server that does exactly what it is told."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loadtest.attack import attack
from loadtest.errors import TargetError, WorkerError
from loadtest.hits import read
from loadtest.outcomes import Outcome, Wrong
from loadtest.report.saturation import page, verdict
from loadtest.report.summary import report
from loadtest.saturate import saturate
from loadtest.scenario import Scenario
from tests.known_server import Behaviour, KnownServer

pytestmark = pytest.mark.slow


def scenario(server: KnownServer, rate: float = 50.0, **changes) -> Scenario:
    """A short load, without warm-up."""
    value = {
        "duration_s": 2.0,
        "warmup_s": 0.0,
        "arrivals": {"kind": "constant", "rate": rate},
        "images": {"count": 2, "sizes": [{"width": 16, "height": 16}]},
        "target": {"url": server.url},
        **changes,
    }
    return Scenario.model_validate(value)


def attacked(server, **changes):
    hits = asyncio.run(attack(scenario(server, **changes)))
    return hits, report(hits)


@pytest.fixture(scope="module")
def stalled():
    """Five seconds on two client processes, with one second in which nothing is answered."""
    behaviour = Behaviour(delay_s=0.05, stall=(126, 1.0), wrong=40, tasks=("a", "b", "c"))
    with KnownServer(behaviour) as server:
        return server, *attacked(server, rate=60.0, duration_s=5.0, workers=2)


def test_percentiles_are_those_of_the_server_s_own_clock(stalled):
    server, hits, _ = stalled
    loaded = server.predictions[-len(hits) :]  # before them labels were learned
    own = np.sort([one.done - one.at for one in loaded])
    seen = np.sort(hits["done"] - hits["sent"])

    assert len(seen) == len(own) == 300
    assert (seen >= own - 0.002).all()
    assert np.median(seen - own) < 0.05


def test_nothing_is_sent_twice(stalled):
    server, hits, value = stalled

    assert len(server.predictions) == len(hits) + value["learned"]
    assert value["learned"] == 6


def test_a_stall_of_a_second_shows_in_the_tail(stalled):
    _, hits, value = stalled
    latency = hits["done"] - hits["scheduled"]

    assert value["latency_ms"]["max"] > 900
    assert value["latency_ms"]["p99"] > 850
    assert (latency > 0.5).sum() >= 27  # those of half a second; a closed loop would show two
    assert max(p for p in value["series"]["p99_ms"] if p is not None) > 850


def test_wrong_answers_are_counted(stalled):
    _, hits, value = stalled
    learned = value["learned"]
    bad = sum((i + 1) % 40 == 0 for i in range(learned, learned + len(hits)))

    assert value["wrong"] == {"label": bad}
    assert value["outcomes"] == {"ok": 300 - bad, "wrong": bad}


def test_stages_and_metrics_are_the_server_s(stalled):
    _, _, value = stalled

    assert value["stages_ms"]["decode"]["p50"] == 1.5
    (counted,) = value["server"]["counters"]["rootstock_requests_total"].values()
    assert counted == 300
    assert value["server"]["histograms"]["rootstock_request_seconds"][""]["mean"] == pytest.approx(
        0.01
    )


def test_processes_share_one_plan(stalled):
    _, hits, value = stalled

    assert np.array_equal(np.sort(hits["row"]), np.arange(300))
    assert np.bincount(hits["worker"]).tolist() == [150, 150]
    assert np.allclose(hits["scheduled"], np.arange(300) / 60.0)
    assert len(value["clients"]) == 2
    assert hits.header["environment"]["versions"]["numpy"] == np.__version__


def test_more_in_flight_than_allowed_is_dropped_and_counted():
    with KnownServer(Behaviour(delay_s=1.0)) as server:
        hits, value = attacked(server, in_flight_max=5, checks={"labels": "none"})

    dropped = value["outcomes"]["dropped"]
    assert len(hits) == 100
    assert 80 <= dropped <= 95
    assert len(server.predictions) == 100 - dropped
    assert value["failed"] == dropped


def test_refusals_disconnections_and_nonsense_are_told_apart():
    behaviour = Behaviour(refused=5, dropped=7, garbage=11)
    with KnownServer(behaviour) as server:
        hits, value = attacked(server, checks={"labels": "none"})

    n = np.arange(1, 101)
    gone = n % 7 == 0
    shed = ~gone & (n % 5 == 0)
    assert value["outcomes"] == {
        "ok": 100 - gone.sum() - shed.sum() - (~gone & ~shed & (n % 11 == 0)).sum(),
        "shed": shed.sum(),
        "bad_body": (~gone & ~shed & (n % 11 == 0)).sum(),
        "disconnected": gone.sum(),
    }
    assert value["retry_after"] == shed.sum()
    assert (hits["status"][hits["outcome"] == Outcome.DISCONNECTED] == 0).all()


def test_a_client_that_cannot_keep_up_says_so():
    with KnownServer(Behaviour(delay_s=0.2)) as server:
        _, value = attacked(server, rate=400_000.0, duration_s=0.5, checks={"labels": "none"})

    assert not value["valid"]
    assert value["invalid"]


@pytest.mark.parametrize("kind", ["oip", "plain"])
def test_the_same_load_drives_other_servers(kind):
    how = {"oip": {}, "plain": {"path": "/predict/{task}", "label": "answers.0.label"}}[kind]
    tasks = {"oip": {}, "plain": {"names": ["a", "b"]}}[kind]  # nobody can ask a plain one
    with KnownServer(Behaviour(wrong=10)) as server:
        target = {"url": server.url, "kind": kind, **how}
        checks = {"learn_max": 1}
        _, value = attacked(server, target=target, tasks=tasks, duration_s=1.0, checks=checks)

    assert value["outcomes"]["ok"] >= 44
    assert value["wrong"] == {"label": 5}


def test_several_tasks_an_unknown_one_and_bad_pictures_are_answered_as_they_should():
    with KnownServer(Behaviour(tasks=("a", "b", "c"))) as server:
        hits, value = attacked(
            server, tasks={"fan_out": 2, "unknown_share": 0.2}, deadline_ms=700, duration_s=1.0
        )

    assert set(value["outcomes"]) == {"ok", "expected"}
    assert hits["tasks"].shape == (50, 2)
    assert (
        sum(row["asked"] for row in value["tasks"]["rows"])
        == 2 * 50 - value["outcomes"]["expected"]
    )
    assert server.predictions[-1].headers["x-request-deadline-ms"] == "700"


def test_a_closed_loop_has_no_more_in_flight_than_clients():
    with KnownServer(Behaviour(delay_s=0.05)) as server:
        _, value = attacked(
            server, arrivals={"kind": "closed", "clients": 3}, duration_s=1.0, workers=2
        )

    loaded = server.predictions[value["learned"] :]
    times = [(one.at, 1) for one in loaded] + [(one.done, -1) for one in loaded]
    assert np.cumsum([change for _, change in sorted(times)]).max() <= 3
    assert value["mode"] == "closed"
    assert value["outcomes"]["ok"] == len(loaded) >= 9


def test_a_server_that_refuses_the_first_request_is_not_loaded():
    with KnownServer() as server, pytest.raises(TargetError, match="404"):
        attacked(server, tasks={"names": ["nobody"]})
    assert len(server.predictions) == 1


def test_a_client_process_that_cannot_begin_says_why(tmp_path):
    labels = tmp_path / "labels.json"
    labels.write_text("[]")

    with KnownServer() as server, pytest.raises(WorkerError, match=r"labels\.json"):
        attacked(server, checks={"labels": "file", "file": str(labels)})


def test_ctrl_c_still_reports(tmp_path):
    with KnownServer() as server:
        command = [sys.executable, "-m", "rootstock", "loadtest", "attack", "steady"]
        options = ["--url", server.url, "--rate", "50", "--set", "warmup_s=0"]
        process = subprocess.Popen(
            [*command, *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not re.search(r"right [1-9]", line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=120)

    assert process.returncode == 130
    assert "broken off" in text
    hits = read(tmp_path / "steady.hits.npz")
    assert hits.header["interrupted"]
    assert set(hits["outcome"].tolist()) <= {Outcome.OK, Outcome.UNSENT}
    assert (hits["outcome"] == Outcome.OK).sum() == len(server.predictions) - hits.header["learned"]
    assert not (hits["wrong"] != Wrong.NO).any()


def test_a_server_that_is_never_in_time_is_not_searched():
    with KnownServer(Behaviour(delay_s=0.2)) as server:
        search = {"settle_s": 1.5}
        found = asyncio.run(saturate(scenario(server, saturate=search, slo={"latency_ms": 100})))

    assert (found["knee"], found["bound"], found["steps"]) == (None, "never calm", [])
    assert "not even one request after another" in verdict(found)
    assert "never" not in page(found)


def test_saturation_is_found_near_the_truth():
    """Told by refusals, not by milliseconds; `tests.bench.load_tester` has the sharper measure."""
    search = {
        "start_rate": 75,
        "step_s": 1.8,
        "tolerance": 0.12,
        "errors_max": 0.04,
        "achieved_min": 0.9,
        "overload": [1.5],
        "settle_s": 5,
    }
    with KnownServer(Behaviour(rate=150.0, queue_max=40)) as server:
        slo = {"latency_ms": 1000}
        found = asyncio.run(saturate(scenario(server, saturate=search, slo=slo, warmup_s=0.2)))

    assert 125 <= found["knee"] <= 180
    assert found["bound"] in ("server", "shared")
    (beyond,) = found["overload"]
    assert beyond["shed_share"] > 0.1
    assert beyond["recovery_s"] is not None
