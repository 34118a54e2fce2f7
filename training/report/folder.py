"""The report folder of a run: every file whole, and the card last. Knows no training."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from training.files import write_text
from training.report import confused, curves, mistakes
from training.report.card import card, percent
from training.report.facts import Facts
from training.report.measures import confusion

CARD: Final = "README.md"


def write(folder: Path, facts: Facts, circumstances: Mapping[str, Any]) -> None:
    """metrics.jsonl, curves.png, confusion.png, mistakes.png, run.json and README.md.

    Args:
        folder: is made where it is missing; other files in it stay.
        facts: the run.
        circumstances: JSON that differs between identical runs (times, host, command line); it
            goes to run.json alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answers = facts.answers
    count = len(answers.labels)
    subject = f"{facts.task} ({facts.method})"
    scored = f"{subject}: {percent(answers.correct / count)} of {count} {answers.split} images"
    write_text(folder / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in _rows(facts)))
    curves.draw(folder / "curves.png", f"{subject}: learning curves", facts.logs)
    confused.draw(folder / "confusion.png", scored, facts.classes, confusion(answers))
    mistakes.draw(
        folder / "mistakes.png",
        f"{subject}: the surest mistakes on {answers.split} images",
        facts.classes,
        answers,
    )
    run = {"task": facts.task, "digest": facts.digest, **circumstances}
    write_text(folder / "run.json", json.dumps(run, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / CARD, card(facts))


def _rows(facts: Facts) -> Iterator[dict[str, Any]]:
    """A line of metrics.jsonl each: trials of the search, then the epochs of every seed."""
    for row in facts.trials:
        yield {"stage": "search", **row}
    for seed, log in facts.logs.items():
        for epoch in log:
            yield {"stage": "train", "seed": seed, **asdict(epoch)}
