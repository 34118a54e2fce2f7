"""Writes docs/results/hardening.md from the parts in docs/results/hardening/*.json.

python -m tests.bench.hardening.report
"""

import json
from pathlib import Path

RESULTS = Path(__file__).parents[3] / "docs" / "results"
ORDER = ("images", "artifacts", "churn", "publishers", "killed", "scrapes", "outages", "topology")


def main() -> None:
    """Every part that has been measured, in the order of the issue's list."""
    lines = [
        "# Hardening: what bad input, crashes and churn do",
        "",
        "Written by `python -m tests.bench.hardening.report` from the parts in `hardening/`, each",
        "measured by the command that stands over it. Times are of a shared machine and mean",
        "little by themselves; statuses, counts and memory mean something.",
    ]
    for part in ORDER:
        file = RESULTS / "hardening" / f"{part}.json"
        if not file.exists():
            continue
        value = json.loads(file.read_text())
        for table in value["tables"]:
            lines += ["", f"## {table['title']}", "", table["text"], ""]
            lines += [_row(table["columns"]), "|" + "---|" * len(table["columns"])]
            lines += [_row(row) for row in table["rows"]]
        lines += ["", f"`{value['command']}` · {value['machine']} · {value['seconds']} s"]
    (RESULTS / "hardening.md").write_text("\n".join(lines) + "\n")


def _row(cells: list[str | int | float]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(cell: str | float) -> str:
    text = f"{cell:.3g}" if isinstance(cell, float) and abs(cell) < 100 else f"{cell}"
    if isinstance(cell, float) and abs(cell) >= 100:
        text = f"{cell:.0f}"
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
