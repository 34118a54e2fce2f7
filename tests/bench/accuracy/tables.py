"""Results as `accuracy.md` and `accuracy.json`. Knows no network; what is not done is pending."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

from tests.bench.accuracy.rows import ROWS, SEEDS, Plan
from tests.bench.accuracy.units import SEED, Done, Unit, searched, trials
from training.full import FULL
from training.protocol import spread

TASKS: Final = (
    "cifar10", "caltech101", "grocery81", "signdigits", "rsscn7", "elpv4", "eth80",
    "omniglot_script8",
)  # fmt: skip
PENDING: Final = "pending"
_REFERENCES: Final = ("linear", FULL)


def write(plan: Plan, done: Done, docs: Path, name: str) -> None:
    """Both files, from whatever is there."""
    tasks = [*TASKS, *sorted({unit.task for unit in done} - {*TASKS})]
    rows = [_entry(unit, result) for unit, result in sorted(done.items(), key=str) if _final(unit)]
    searches = [
        {"method": method, "task": task, "points": _search(method, task, plan, done)}
        for task in tasks
        for method in ROWS
        if trials(Unit(method, task, SEED, 0), plan, done) is not None
    ]
    value = {"plan": plan.told(), "seeds": SEEDS, "rows": rows, "searches": searches}
    docs.mkdir(parents=True, exist_ok=True)
    (docs / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")
    (docs / f"{name}.md").write_text("\n".join(_text(plan, done, tasks)) + "\n")


def _final(unit: Unit) -> bool:
    return unit.kind == SEED


def _entry(unit: Unit, result: dict[str, Any]) -> dict[str, Any]:
    kept = {key: result.get(key) for key in ("test_top1", "parameters", "settings")}
    return {"method": unit.method, "task": unit.task, "seed": unit.number, **kept}


def _search(method: str, task: str, plan: Plan, done: Done) -> list[dict[str, Any]]:
    points = searched(method, plan)
    found = trials(Unit(method, task, SEED, 0), plan, done) or []
    return [
        {**point, "val": None if last is None else last["val_accuracy"]}
        for point, last in zip(points, found, strict=True)
    ]


def _text(plan: Plan, done: Done, tasks: Sequence[str]) -> list[str]:
    cells = {(m, t): accuracies(m, t, done) for m in ROWS for t in tasks}
    over = sum(len(found) for found in cells.values())
    steps = f"{plan.epochs} epochs with batches of {plan.batch} in {plan.precision}"
    chosen = [
        f"a task. Every row: at most {plan.points} points on val with seed 0,",
        f"{steps}; the point of best val accuracy, the first",
        "among equals, is trained anew on train and val for as long.",
    ]
    given = [
        "a task. Every row has one point, the first of its list: nothing is searched, nothing",
        f"chosen. It is trained on train and val, {steps}.",
    ]
    return [
        f"# Accuracy on {len(tasks)} tasks",
        "",
        "Written by `python -m tests.bench.accuracy render`; not by hand. Test top-1 in percent,",
        f"mean ± standard deviation over {SEEDS} seeds; fewer seeds so far are said as (n).",
        f"{over} of {len(cells) * SEEDS} final runs are there; what is not is {PENDING}.",
        "",
        f"Backbone `{plan.backbone}` (weights {plan.weights[:12]}), 800 train and 200 val images",
        *(chosen if plan.points > 1 else given),
        "After its last epoch a run answers the test images once, in fp32. Parameters are those",
        "trained, the head excluded. FacT is its Tucker form. The mean is over tasks, of rows that",
        "have them all.",
        "",
        "| method | parameters | " + " | ".join(tasks) + " | mean |",
        "|---|--:|" + "--:|" * (len(tasks) + 1),
        *(_line(method, tasks, cells, done) for method in ROWS),
        "",
        "## Against a linear head and full fine-tuning",
        "",
        "Differences in points, the mean over the tasks that both rows have, of the seeds so far.",
        "",
        "| method | tasks | to linear | to full | more than a point below linear on |",
        "|---|--:|--:|--:|---|",
        *(_against(method, tasks, cells) for method in ROWS if method not in _REFERENCES),
    ]


def _against(method: str, tasks: Sequence[str], cells: dict[tuple[str, str], list[float]]) -> str:
    """What a row gains over the references, and where it loses to the first."""
    gains = []
    for reference in _REFERENCES:
        both = [t for t in tasks if cells[method, t] and cells[reference, t]]
        gains.append({t: 100 * (mean(cells[method, t]) - mean(cells[reference, t])) for t in both})
    linear, full = gains
    losses = ", ".join(f"{task} ({gain:.1f})" for task, gain in linear.items() if gain < -1)
    said = (f"{mean(gain.values()):+.1f}" if gain else PENDING for gain in (linear, full))
    return f"| {ROWS[method].title} | {len(linear)} | " + " | ".join(said) + f" | {losses} |"


def accuracies(method: str, task: str, done: Done) -> list[float]:
    """Test accuracies of a cell, seed by seed; a run that diverged counts as nothing right."""
    found = (done.get(Unit(method, task, SEED, seed)) for seed in range(SEEDS))
    return [result["test_top1"] or 0.0 for result in found if result is not None]


def _line(
    method: str,
    tasks: Sequence[str],
    cells: dict[tuple[str, str], list[float]],
    done: Done,
) -> str:
    sizes = {r["parameters"] for u, r in done.items() if u.method == method and "parameters" in r}
    size = f"{max(sizes):,}" if sizes else PENDING
    own = [cells[method, task] for task in tasks]
    whole = f"{100 * mean(map(mean, own)):.1f}" if all(own) else PENDING
    return f"| {ROWS[method].title} | {size} | " + " | ".join(map(_cell, own)) + f" | {whole} |"


def _cell(found: Sequence[float]) -> str:
    if (both := spread(found)) is None:
        return PENDING
    if len(found) < SEEDS:
        return f"{100 * both[0]:.1f} ({len(found)})"
    return f"{100 * both[0]:.1f} ± {100 * both[1]:.1f}"
