"""Units of work, their results on disk, and which can be begun. Knows no network and no image.

A unit is one point of one search, or one final run of one seed: (method, task, kind, number). Its
result is one line of `results.jsonl`, so whatever ends a run, what is done is done.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tests.bench.accuracy.rows import ROWS, SEEDS, Plan

FILE: Final = "results.jsonl"
POINT: Final = "point"
SEED: Final = "seed"

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unit:
    """One run."""

    method: str
    task: str
    kind: Literal["point", "seed"]
    number: int  # of the point, or the seed itself


Done = dict[Unit, Result]


def units(methods: Sequence[str], tasks: Sequence[str], plan: Plan) -> Iterator[Unit]:
    """All of them: every cell gets its first seed before any gets its second."""
    cells = [(method, task) for task in tasks for method in methods]
    for seed in range(SEEDS):
        for method, task in cells:
            if seed == 0:
                for number in range(len(searched(method, plan))):
                    yield Unit(method, task, POINT, number)
            yield Unit(method, task, SEED, seed)


def searched(method: str, plan: Plan) -> Sequence[Mapping[str, Any]]:
    """The settings that this plan tries on val; with one point there is nothing to choose."""
    return ROWS[method].points[: plan.points] if plan.points > 1 else ()


def trials(unit: Unit, plan: Plan, done: Done) -> list[Result | None] | None:
    """Last epochs of the search that this unit's cell rests on; None: it is not over yet.

    A point that diverged has none, and where nothing is searched the list is empty.
    """
    wanted = [
        Unit(unit.method, unit.task, POINT, n) for n in range(len(searched(unit.method, plan)))
    ]
    if not all(one in done for one in wanted):
        return None
    return [done[one]["last"] for one in wanted]


def ready(unit: Unit, plan: Plan, done: Done) -> bool:
    """Whether all that it rests on is there, and something came of it."""
    if unit.kind == POINT:
        return True
    found = trials(unit, plan, done)
    return found is not None and (not found or any(last is not None for last in found))


class Journal:
    """Results of one plan in one folder; a line is written at once and never changed."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        """Open or begin; a half-written last line is dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / FILE
        self.done: Done = {}
        if self._file.exists():
            told, self.done = read(self._file)
            if told != plan.told():
                raise SystemExit(f"{self._file} is of another plan: {told}, not {plan.told()}")
        self._rewrite(plan)

    def add(self, unit: Unit, result: Result) -> None:
        """One more; on disk when this returns."""
        self.done[unit] = result
        with self._file.open("a") as file:
            file.write(_line(unit, result))
            file.flush()
            os.fsync(file.fileno())

    def _rewrite(self, plan: Plan) -> None:
        lines = [json.dumps({"plan": plan.told()}) + "\n"]
        lines += [_line(unit, result) for unit, result in self.done.items()]
        part = self._file.with_suffix(".part")
        part.write_text("".join(lines))
        part.replace(self._file)


def read(file: Path) -> tuple[dict[str, Any], Done]:
    """The plan and the results of a file of them."""
    plan: dict[str, Any] = {}
    done: Done = {}
    for line in file.read_text().splitlines():
        try:
            value = json.loads(line)
        except ValueError:  # the run was killed while it wrote
            continue
        if "plan" in value:
            plan = value["plan"]
        else:
            done[Unit(*value.pop("unit"))] = value
    return plan, done


def merged(files: Iterable[Path]) -> tuple[dict[str, Any], Done]:
    """The results of several files of one plan; each cell's are of one file, the first fullest.

    A seed that one machine ran does not belong to a search that another one made.
    """
    plan: dict[str, Any] | None = None
    cells: dict[tuple[str, str], Done] = {}
    for file in files:
        told, found = read(file)
        if plan is not None and told != plan:
            raise SystemExit(f"{file} is of another plan: {told}, not {plan}")
        plan = told
        own: dict[tuple[str, str], Done] = {}
        for unit, result in found.items():
            own.setdefault((unit.method, unit.task), {})[unit] = result
        for cell, done in own.items():
            if len(done) > len(cells.get(cell, {})):
                cells[cell] = done
    if plan is None:
        raise SystemExit("there is nothing to merge")
    return plan, {unit: result for done in cells.values() for unit, result in done.items()}


def _line(unit: Unit, result: Result) -> str:
    return json.dumps({"unit": [unit.method, unit.task, unit.kind, unit.number], **result}) + "\n"
