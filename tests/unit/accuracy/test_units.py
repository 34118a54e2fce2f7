"""The accuracy table's bookkeeping: what is done stays done, and nothing is chosen on test."""

import dataclasses

import pytest

from tests.bench.accuracy import rows, tables
from tests.bench.accuracy.rows import POINTS_MOST, ROWS, Plan, points
from tests.bench.accuracy.units import POINT, SEED, Journal, Unit, merged, ready, units

PLAN = Plan(backbone="net", weights="0" * 64, epochs=2, batch=8, points=2, precision="fp32")


def tried(val: float | None) -> dict:
    return {"settings": {}, "last": None if val is None else {"val_accuracy": val}, "seconds": 1}


def finished(top1: float) -> dict:
    return {"settings": {}, "test_top1": top1, "parameters": 7, "seconds": 1}


@pytest.mark.parametrize("method", ROWS)
def test_every_row_tries_at_most_six_points_and_all_the_same_epochs(method):
    whole = dataclasses.replace(PLAN, points=POINTS_MOST, epochs=30, batch=64)
    found = points(method, whole)

    assert len(found) == 6
    assert len({str(sorted(point.settings.items())) for point in found}) == 6
    assert {(p.recipe.epochs, p.recipe.batch, p.recipe.seed) for p in found} == {(30, 64, 0)}


def test_every_cell_gets_its_first_seed_before_any_gets_its_second():
    listed = list(units(["lora", "linear"], ["a", "b"], PLAN))

    assert len(listed) == len(set(listed)) == 4 * (2 + 3)
    first = [unit for unit in listed if unit.kind == POINT or unit.number == 0]
    assert listed[: len(first)] == first


def test_a_final_run_waits_for_the_whole_search_of_its_cell():
    last, one, two = (Unit("lora", "a", SEED, 0), *(Unit("lora", "a", POINT, n) for n in (0, 1)))

    assert not ready(last, PLAN, {one: tried(0.5)})
    assert ready(last, PLAN, {one: tried(0.5), two: tried(None)})
    assert not ready(last, PLAN, {one: tried(None), two: tried(None)})


def test_a_plan_of_one_point_searches_nothing():
    single = dataclasses.replace(PLAN, points=1)

    assert {unit.kind for unit in units(["lora"], ["a"], single)} == {SEED}
    assert ready(Unit("lora", "a", SEED, 0), single, {})


def test_a_run_goes_on_from_its_file_and_drops_half_a_line(tmp_path):
    unit = Unit("lora", "a", POINT, 0)
    Journal(tmp_path, PLAN).add(unit, tried(0.5))
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"unit": ["lora", "a", "po')

    again = Journal(tmp_path, PLAN)
    again.add(Unit("lora", "a", POINT, 1), tried(0.6))

    assert list(Journal(tmp_path, PLAN).done) == [unit, Unit("lora", "a", POINT, 1)]


def test_results_of_another_plan_are_not_mixed_in(tmp_path):
    Journal(tmp_path / "one", PLAN)
    other = dataclasses.replace(PLAN, epochs=3)
    Journal(tmp_path / "two", other)

    with pytest.raises(SystemExit, match="another plan"):
        Journal(tmp_path / "one", other)
    with pytest.raises(SystemExit, match="another plan"):
        merged(sorted(tmp_path.glob("*/results.jsonl")))


def test_parts_of_two_machines_become_one_table(tmp_path):
    """A cell that both began is the one's that got further; what neither has is pending."""
    parts = {
        "one": {("alore", "cifar10"): (0.5,), ("alore", "eth80"): (0.6, 0.6, 0.6)},
        "two": {("alore", "cifar10"): (0.7, 0.72)},
    }
    for name, cells in parts.items():
        journal = Journal(tmp_path / name, PLAN)
        for (method, task), scores in cells.items():
            for seed, score in enumerate(scores):
                journal.add(Unit(method, task, SEED, seed), finished(score))

    _, done = merged(sorted(tmp_path.glob("*/results.jsonl")))
    tables.write(PLAN, done, tmp_path / "docs", "accuracy")

    text = (tmp_path / "docs" / "accuracy.md").read_text()
    line, _ = [line for line in text.splitlines() if line.startswith("| ALoRE |")]
    found = [cell.strip() for cell in line.strip("|").split("|")]
    assert found[:3] == ["ALoRE", "7", "71.0 (2)"]
    assert set(found[3:]) == {"pending", "60.0 ± 0.0"}
    assert '"test_top1": 0.72' in (tmp_path / "docs" / "accuracy.json").read_text()


def test_the_table_says_what_a_row_gains_and_where_it_falls_below_linear(tmp_path):
    """On the tasks that both rows have: full fine-tuning has one of them, SSF none."""
    journal = Journal(tmp_path, PLAN)
    scores = {
        ("linear", "cifar10"): 0.5, ("linear", "eth80"): 0.7,
        ("full", "cifar10"): 0.65,
        ("alore", "cifar10"): 0.6, ("alore", "eth80"): 0.68, ("alore", "rsscn7"): 0.1,
    }  # fmt: skip
    for (method, task), score in scores.items():
        journal.add(Unit(method, task, SEED, 0), finished(score))

    _, done = merged([tmp_path / "results.jsonl"])
    tables.write(PLAN, done, tmp_path / "docs", "accuracy")

    lines = (tmp_path / "docs" / "accuracy.md").read_text().splitlines()
    assert "| ALoRE | 2 | +4.0 | -5.0 | eth80 (-2.0) |" in lines
    assert "| SSF | 0 | pending | pending |  |" in lines


def test_results_of_other_points_are_not_mixed_in(tmp_path, monkeypatch):
    """The same plan, and one row tries another rate."""
    Journal(tmp_path, PLAN)
    told, _ = merged([tmp_path / "results.jsonl"])
    assert Plan.of(told) == PLAN
    other = dataclasses.replace(ROWS["linear"], points=({"lr": 0.5}, {"lr": 0.25}))
    monkeypatch.setattr(rows, "ROWS", {**ROWS, "linear": other})

    with pytest.raises(SystemExit, match="another plan"):
        Journal(tmp_path, PLAN)
    with pytest.raises(SystemExit, match="other points"):
        Plan.of(told)
