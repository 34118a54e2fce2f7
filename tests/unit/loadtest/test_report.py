"""A report says what hits say, and says when they say nothing."""

import json
import re

import numpy as np
import pytest

from loadtest.hits import Hits
from loadtest.limits import missed
from loadtest.outcomes import Outcome, Wrong
from loadtest.report.page import page
from loadtest.report.summary import SCHEMA, report
from loadtest.report.text import text
from tests.unit.loadtest.conftest import make_hits, make_scenario


def test_percentiles_are_of_right_answers_since_they_were_due():
    latency = np.arange(1.0, 1001.0)
    outcome = np.where(latency <= 990, Outcome.OK, Outcome.TIMEOUT)

    found = report(make_hits(latency, outcome=outcome))

    assert found["schema"] == SCHEMA
    assert found["latency_ms"]["count"] == 990
    assert found["latency_ms"]["p99"] == pytest.approx(981.0)
    assert found["failed"] == 10


def test_goodput_counts_answers_that_are_right_and_in_time():
    latency = [50.0] * 60 + [150.0] * 20 + [50.0] * 20
    outcome = [Outcome.OK] * 80 + [Outcome.WRONG] * 20

    found = report(make_hits(latency, outcome=outcome))

    assert found["rates"]["goodput"] == pytest.approx(6.0)
    assert found["rates"]["ok"] == pytest.approx(8.0)
    assert found["attainment"] == pytest.approx(0.6)


def test_warm_up_is_left_out():
    scenario = make_scenario(warmup_s=5.0)
    latency = [500.0] * 50 + [10.0] * 50

    found = report(make_hits(latency, scenario=scenario))

    assert found["hits"] == 50
    assert found["latency_ms"]["max"] == pytest.approx(10.0)
    assert found["rates"]["ok"] == pytest.approx(10.0)


def test_refusals_that_were_wanted_are_neither_work_nor_failure():
    outcome = [Outcome.OK] * 90 + [Outcome.EXPECTED] * 10

    found = report(make_hits([10.0] * 100, outcome=outcome))

    assert found["attainment"] == 1.0
    assert found["failed"] == 0


def test_a_client_that_fell_behind_makes_the_run_invalid():
    assert report(make_hits([20.0] * 100, lag_ms=9.0))["valid"]
    late = report(make_hits([20.0] * 100, lag_ms=11.0))
    assert not late["valid"]
    assert "fell behind" in late["invalid"][0]


def test_a_client_without_a_core_to_spare_makes_the_run_invalid():
    found = report(make_hits([20.0] * 100, clients=[{"cpu": 0.2}, {"cpu": 0.9}]))

    assert "90%" in found["invalid"][0]


def test_requests_that_never_left_make_the_run_invalid():
    found = report(make_hits([20.0] * 100, outcome=[Outcome.OK] * 99 + [Outcome.UNSENT]))

    assert "1 of 100" in found["invalid"][0]


def test_requests_that_nobody_took_down_make_the_run_invalid():
    found = report(make_hits([20.0] * 100, planned=103))

    assert "of 3 requests it is not known" in found["invalid"][0]
    assert report(make_hits([20.0] * 100, planned=103, interrupted=True))["valid"]


def test_changes_that_were_refused_are_counted():
    change = {"kind": "publish", "task": "a", "at": 1.0, "took_ms": 5.0}
    changes = [{**change, "status": 201}, {**change, "status": 200, "made": False}]

    found = report(make_hits([20.0] * 100, changes=changes))

    assert found["changes_refused"] == 1
    assert "publish × 2, 1 refused" in text(found)
    assert missed(found, {"changes_refused": 0}) == ["changes_refused is 1, the limit is 0"]


def test_a_closed_loop_has_no_schedule_to_fall_behind():
    scenario = make_scenario(arrivals={"kind": "closed", "clients": 4})

    found = report(make_hits([20.0] * 100, lag_ms=50.0, scenario=scenario))

    assert found["valid"]
    assert found["mode"] == "closed"


def test_tasks_are_counted_one_by_one_and_fairness_over_them():
    tasks = [0] * 60 + [1] * 30 + [2] * 10
    latency = [10.0] * 60 + [10.0] * 30 + [500.0] * 10

    found = report(make_hits(latency, tasks=tasks))["tasks"]

    assert [(row["task"], row["asked"], row["good"]) for row in found["rows"]] == [
        ("a", 60, 60),
        ("b", 30, 30),
        ("c", 10, 0),
    ]
    assert found["jain"] == pytest.approx(2 / 3)
    assert found["worst_attainment"] == 0.0


def test_a_request_for_several_tasks_counts_for_each():
    hits = make_hits([10.0] * 6)
    columns = {**hits.columns, "tasks": np.array([[0, 1]] * 6, np.int32)}

    rows = report(Hits(hits.header, columns, {}))["tasks"]["rows"]

    assert [(row["task"], row["asked"]) for row in rows] == [("a", 6), ("b", 6)]


def test_stages_are_what_the_server_says_and_what_it_leaves_unsaid():
    stages = {"decode": np.full(10, 2.0, np.float32), "compute": np.full(10, 5.0, np.float32)}

    found = report(make_hits([10.0] * 10, stages=stages))["stages_ms"]

    assert found["decode"]["mean"] == 2.0
    assert found["elsewhere"]["p50"] == pytest.approx(3.0)


def test_every_second_is_told_apart():
    latency = np.where(np.arange(100) // 10 == 4, 900.0, 10.0)

    series = report(make_hits(latency))["series"]

    assert series["offered"] == pytest.approx([10.0] * 10)
    assert [i for i, p in enumerate(series["p99_ms"]) if p > 500] == [4]
    assert series["goodput"][4] == 0.0


def test_a_run_that_was_broken_off_is_as_long_as_it_was():
    hits = make_hits([10.0] * 30, scheduled=np.arange(30) / 10.0, interrupted=True)

    found = report(hits)

    assert found["seconds"] == pytest.approx(2.9)
    assert found["rates"]["ok"] == pytest.approx(30 / 2.9)


def test_nothing_measured_is_said():
    found = report(make_hits([]))

    assert found["invalid"] == ["nothing was measured"]
    assert "INVALID" in text(found)
    assert page(found, make_hits([])).startswith("<!doctype html>")


def test_a_report_is_strict_json_and_a_text():
    hits = make_hits([10.0] * 20, outcome=[Outcome.OK] * 19 + [Outcome.WRONG])
    hits.columns["wrong"][-1] = Wrong.STALE
    found = report(hits)

    again = json.loads(json.dumps(found, allow_nan=False))

    assert again == found
    assert "WRONG       stale 1" in text(found)
    assert "effective number" in text(found)


def test_the_page_needs_nothing_from_elsewhere_and_trusts_no_name():
    names = ["<script>alert(1)</script>", '<span class="bar"><img src=x onerror=alert(1)>', "c"]
    scenario = make_scenario(tasks={"names": names}, name="<b>")
    hits = make_hits([10.0, 20.0, 400.0] * 30, scenario=scenario, tasks=[0, 1, 2] * 30)

    html = page(report(hits), hits)

    assert "<script" not in html
    assert "<img" not in html
    assert "<b>" not in html.replace('<div class="tile"><b>', "").replace('bad"><b>', "")
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", html)
    assert "@import" not in html
    assert html.count("<svg") == 8


def test_limits_that_were_not_kept_are_named():
    found = report(make_hits([10.0] * 99 + [300.0]))

    assert missed(found, {"p99_ms": 20, "goodput": 5, "jain": 0.5, "wrong": 0}) == []
    assert missed(found, {"max_ms": 20, "goodput": 50}) == [
        "max_ms is 300, the limit is 20",
        "goodput is 9.9, the limit is 50",
    ]
    assert missed(report(make_hits([])), {"p99_ms": 20}) == ["p99_ms is not known, the limit is 20"]
