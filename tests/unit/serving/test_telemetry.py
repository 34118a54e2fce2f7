"""Metrics: the table, one process's numbers, and the text that all replicas make together."""

import ast
import pickle
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import serving
from serving.telemetry import FLEET, METRICS, OTHER, Telemetry, merge


@pytest.fixture
def telemetry() -> Telemetry:
    """Numbers at zero, with room for three task names."""
    return Telemetry(task_labels_max=3)


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of an exposition text, as Prometheus reads it."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """Where a sample is found in what was read."""
    return name, frozenset(labels.items())


def test_the_table_is_sound():
    """Names carry the prefix, counters no `_total`, histograms ascending buckets."""
    for name, metric in METRICS.items():
        assert name.startswith("rootstock_"), name
        assert not name.endswith(("_total", "_bucket", "_sum", "_count")), name
        assert bool(metric.buckets) == (metric.kind == "histogram"), name
        assert list(metric.buckets) == sorted(set(metric.buckets)), name
        assert "replica" not in metric.labels, "the merge adds it"


def test_every_metric_that_serving_writes_is_in_the_table_and_the_reverse():
    """A misspelt or forgotten metric is found here and not in production."""
    written = {
        node.args[0].value
        for file in Path(serving.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("count", "set", "observe")
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and str(node.args[0].value).startswith("rootstock_")
    }

    assert written == set(METRICS)


def test_the_document_has_every_metric_with_its_kind_and_labels_and_no_other():
    """docs/metrics.md, row by row; its words are those that a scrape shows."""
    text = (Path(serving.__file__).parents[1] / "docs/metrics.md").read_text()
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in text.splitlines()
        if line.startswith("| `rootstock_")
    ]
    wanted = [
        (
            f"`{name}{'_total' if metric.kind == 'counter' else ''}`",
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.help,
        )
        for name, metric in METRICS.items()
    ]

    assert rows[: len(wanted)] == wanted
    assert [row[0] for row in rows[len(wanted) :]] == [f"`{name}`" for name in FLEET]


def test_numbers_reach_the_text_with_the_label_of_their_replica(telemetry):
    """What was counted, set and observed is what Prometheus reads."""
    telemetry.count("rootstock_requests", task="flowers", outcome="ok")
    telemetry.count("rootstock_requests", 2, task="flowers", outcome="ok")
    telemetry.set("rootstock_generation", 7)
    telemetry.observe("rootstock_request_seconds", 0.04, outcome="ok")

    found = read(merge({"a": telemetry.snapshot()}, 1))

    assert found[key("rootstock_requests_total", task="flowers", outcome="ok", replica="a")] == 3
    assert found[key("rootstock_generation", replica="a")] == 7
    slow, fast = (
        key("rootstock_request_seconds_bucket", outcome="ok", replica="a", le=edge)
        for edge in ("0.05", "0.035")
    )
    assert (found[slow], found[fast]) == (1, 0)
    assert found[key("rootstock_request_seconds_count", outcome="ok", replica="a")] == 1


def test_replicas_are_told_apart_and_a_missing_one_shows(telemetry):
    """Three are expected, two answer, and neither hides the other's numbers."""
    other = Telemetry(task_labels_max=3)
    telemetry.set("rootstock_generation", 7)
    other.set("rootstock_generation", 5)

    found = read(merge({"a": telemetry.snapshot(), "b": other.snapshot()}, 3))

    assert found[key("rootstock_generation", replica="a")] == 7
    assert found[key("rootstock_generation", replica="b")] == 5
    assert found[key("rootstock_replicas_expected")] == 3
    assert found[key("rootstock_replicas_scraped")] == 2


def test_a_fleet_that_does_not_answer_is_still_a_valid_text():
    """No replica in time gives zero of two, not an error."""
    assert read(merge({}, 2)) == {
        key("rootstock_replicas_expected"): 2,
        key("rootstock_replicas_scraped"): 0,
    }


def test_each_family_is_described_once_however_many_replicas_answer(telemetry):
    """A second HELP or TYPE line for a family is an error to Prometheus."""
    text = merge({str(i): telemetry.snapshot() for i in range(3)}, 3)

    described = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(described) == len(set(described))
    assert "_created" not in text


def test_task_names_are_capped_and_the_rest_share_one(telemetry):
    """Thousands of tasks never become thousands of series; the first ones keep their names."""
    for i in range(9):
        telemetry.count("rootstock_requests", task=f"task-{i}", outcome="ok")
    telemetry.count("rootstock_requests", task="task-0", outcome="ok")

    found = read(merge({"a": telemetry.snapshot()}, 1))

    def requests(task: str) -> float | None:
        return found.get(key("rootstock_requests_total", task=task, outcome="ok", replica="a"))

    assert [requests(f"task-{i}") for i in range(4)] == [2, 1, 1, None]
    assert requests(OTHER) == 6


def test_odd_label_values_survive_the_text(telemetry):
    """Quotes, backslashes and line ends are escaped, not injected."""
    odd = 'a"b\\c\nd'
    telemetry.count("rootstock_requests", task=odd, outcome="ok")

    found = read(merge({"a": telemetry.snapshot()}, 1))

    assert found[key("rootstock_requests_total", task=odd, outcome="ok", replica="a")] == 1


def test_a_missing_or_unknown_label_is_an_error(telemetry):
    """Labels are exactly those of the table."""
    for labels in ({}, {"task": "t"}, {"task": "t", "outcome": "ok", "extra": "x"}):
        with pytest.raises(ValueError, match="label"):
            telemetry.count("rootstock_requests", **labels)
    with pytest.raises(ValueError, match="label"):
        telemetry.set("rootstock_generation", 1, task="t")


def test_a_metric_is_used_only_as_what_it_is(telemetry):
    """An unknown name, or the wrong verb for its kind, is an error."""
    with pytest.raises(KeyError):
        telemetry.count("rootstock_unheard_of")
    with pytest.raises(KeyError):
        telemetry.count("rootstock_generation")
    with pytest.raises(KeyError):
        telemetry.observe("rootstock_requests", 1, task="t", outcome="ok")


def test_a_snapshot_crosses_processes(telemetry):
    """It pickles, and reads the same on the other side."""
    telemetry.observe("rootstock_batch_samples", 3)
    snapshot = telemetry.snapshot()

    there = pickle.loads(pickle.dumps(snapshot))

    assert merge({"a": there}, 1) == merge({"a": snapshot}, 1)


def test_two_processes_share_nothing():
    """Each Telemetry has a registry of its own, so that tests and replicas do not add up."""
    one, two = Telemetry(3), Telemetry(3)
    one.set("rootstock_generation", 7)

    found = read(merge({"b": two.snapshot()}, 1))

    assert found[key("rootstock_generation", replica="b")] == 0


def test_threads_lose_no_count(telemetry):
    """Counting from many threads adds up, and the cap on names holds."""

    def work() -> None:
        for i in range(500):
            telemetry.count("rootstock_requests", task=f"task-{i % 5}", outcome="ok")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = read(merge({"a": telemetry.snapshot()}, 1))
    counts = {k: v for k, v in found.items() if k[0] == "rootstock_requests_total"}
    assert sum(counts.values()) == 2000
    assert len(counts) == 4
