"""Rounds of systems to rows, verdicts and a page; what makes a system void."""

import json

import pytest

from loadtest.peers import parts, rows
from loadtest.peers.page import page
from loadtest.peers.systems import SYSTEMS, named, words


def figures(**changes):
    """Of one system with so many tasks, in one round."""
    return {
        "start_s": 5.0,
        "memory_mb": 1000.0,
        "throughput": 50.0,
        "agreement": 1.0,
        "asked": 400,
        "dtypes": ["bf16"],
        **changes,
    }


def part(system, *rounds):
    return {"system": system, "rounds": [dict(one) for one in rounds], "tuning": []}


def cell(found, system, tasks, metric):
    return rows.value(found, system, tasks, metric)


def test_a_row_is_the_median_of_the_rounds():
    done = [part("peft", *({"8": figures(throughput=t)} for t in (40.0, 90.0, 50.0)))]

    assert cell(rows.rows(done, "bf16"), "peft", 8, "throughput") == 50.0


def test_a_peer_in_another_dtype_is_void_and_has_no_rows():
    done = [part("peft", {"8": figures(dtypes=["fp32"])})]

    assert rows.rows(done, "bf16") == []
    assert rows.voids(done[0], "bf16") == ["it computes in fp32, the others in bf16"]


def test_one_parameter_in_another_dtype_makes_a_peer_void():
    assert rows.voids(part("peft", {"8": figures(dtypes=["bf16+fp32"])}), "bf16")


def test_a_peer_that_tells_no_dtype_is_void():
    assert rows.voids(part("peft", {"8": figures(dtypes=[])}), "bf16")


def test_a_peer_that_answers_otherwise_is_void():
    done = part("peft", {"8": figures(agreement=0.98)})

    assert rows.voids(done, "bf16") == ["98.0% of answers agree (at least 99%), of 400"]
    assert not rows.voids(part("peft", {"8": figures(agreement=0.99)}), "bf16")


def test_a_peer_whose_answers_were_never_checked_is_void():
    unchecked = {k: v for k, v in figures().items() if k not in ("agreement", "dtypes")}

    assert rows.voids(part("peft", {"8": unchecked}), "bf16")


def test_a_peer_that_cannot_hold_so_many_tasks_is_told_with_its_reason():
    done = [part("peft", {"8": figures(), "100": {"why": "it does not fit"}})]
    found = rows.rows(done, "bf16")

    served = {"system": "peft", "tasks": 100, "metric": "served", "value": None}
    assert found[-1] == {**served, "why": "it does not fit"}


def test_a_round_that_failed_is_left_out_of_medians():
    done = [part("peft", {"8": figures(throughput=10.0)}, {"8": {"why": "it ended"}})]

    assert cell(rows.rows(done, "bf16"), "peft", 8, "throughput") == 10.0


def test_what_a_further_task_takes_is_between_the_fewest_and_the_most():
    done = [part("peft", {"1": figures(memory_mb=500.0), "101": figures(memory_mb=700.0)})]

    assert cell(rows.rows(done, "bf16"), "peft", 101, "memory_mb_per_task") == 2.0


@pytest.fixture
def everybody():
    ours = {"add_s": 0.4, "add_failed": 0}
    return [
        part(
            "litserve",
            {
                "1": figures(memory_mb=600.0),
                "8": figures(throughput=40.0, p99_ms=90.0),
                "100": figures(memory_mb=2600.0, throughput=30.0),
            },
        ),
        part(
            "rootstock",
            {
                "1": figures(memory_mb=900.0),
                "8": figures(throughput=60.0, p99_ms=95.0, **ours),
                "100": figures(memory_mb=920.0, throughput=36.0),
            },
        ),
    ]


def test_verdicts_hold_rootstock_to_what_was_expected(everybody):
    told = rows.verdicts(rows.rows(everybody, "bf16"))

    assert [(verdict["measured"], verdict["met"]) for verdict in told] == [
        (0.354, False),  # 920 of 2600
        (0.01, True),  # 0.202 of 20.2
        (1.5, True),
        (1.2, False),
        (0.4, True),
        (0, True),
    ]


def test_a_verdict_without_its_peer_is_not_known(everybody):
    told = rows.verdicts(rows.rows(everybody[1:], "bf16"))

    assert [verdict["met"] for verdict in told] == [None, None, None, None, True, True]


def test_cells_that_a_peer_wins_are_told(everybody):
    lost = rows.lost(rows.rows(everybody, "bf16"))

    assert {(one["tasks"], one["metric"], one["system"]) for one in lost} == {
        (1, "memory_mb", "litserve"),
        (8, "p99_ms", "litserve"),
    }


def test_the_common_rate_is_of_the_slowest_peer():
    assert rows.slowest({"litserve": 40.0, "bentoml": 20.0, "peft": 0.0, "rootstock": 5.0}) == 20.0
    assert rows.slowest({"rootstock": 5.0}) == 5.0


def result(done):
    found = rows.rows(done, "bf16")
    return {
        "command": "make bench-peers",
        "backbone": "rootstock_nano",
        "dtype": "bf16",
        "machine": {"cpus": 2, "processor": "p"},
        "load": {
            "rates": [20.0, 40.0],
            "pictures": 16,
            "picture_kb": 100.0,
            "rounds": 1,
            "clients": 16,
            "seconds": 6.0,
            "slo_ms": 250.0,
            "tuned_with": 8,
        },
        "systems": [
            {
                "name": one["system"],
                "about": "…",
                "versions": {"torch": "2"},
                "settings": {"batch": 8},
                "tried": [{"settings": {"batch": 8}, "throughput": 3.0}],
                "agreement": 1.0,
                "void": rows.voids(one, "bf16"),
                "failures": [],
                "client_late": "",
            }
            for one in done
        ],
        "rows": found,
        "verdicts": rows.verdicts(found),
        "lost": rows.lost(found),
    }


def test_the_page_has_a_table_for_every_number_of_tasks(everybody):
    text = page(result(everybody), "## Why\n\nBecause.")

    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## What was expected of Rootstock",
        "## 1 task",
        "## 8 tasks",
        "## 100 tasks",
        "## Where a peer is better",
        "## Why",
        "## How each was run",
    ]
    assert "- p99 ms, 8 tasks: LitServe 90, Rootstock 95" in text
    assert "| **60** |" in text


def test_the_page_says_what_is_void_and_why(everybody):
    everybody[0]["rounds"][0]["8"]["dtypes"] = ["fp32"]
    text = page(result(everybody), "")

    assert "| LitServe | void |" in text
    assert "Void: it computes in fp32, the others in bf16." in text


def test_the_page_says_what_was_not_served(everybody):
    everybody[0]["rounds"][0]["100"] = {"why": "it does not fit in memory"}

    assert "| LitServe | not served |" in page(result(everybody), "")


def test_systems_are_named_in_the_order_of_the_table():
    assert [system.name for system in named("rootstock,litserve")] == ["litserve", "rootstock"]
    assert named("all") == SYSTEMS
    with pytest.raises(KeyError, match="tensorflow"):
        named("peft,tensorflow")


def test_settings_are_words():
    assert words({"workers": 2, "threads": 1}) == "workers 2, threads 1"
    assert words({}) == "its defaults"


def test_parts_of_the_same_conditions_are_taken_up_again(tmp_path):
    begun = parts.held(tmp_path, "peft", {"tasks": "1,8"})
    begun["rounds"].append({"1": {}})
    parts.keep(tmp_path, begun)

    assert parts.held(tmp_path, "peft", {"tasks": "1,8"})["rounds"] == [{"1": {}}]
    assert parts.held(tmp_path, "peft", {"tasks": "1"})["rounds"] == []
    assert json.loads((tmp_path / "peft.json").read_text()) == begun
