"""`rootstock loadtest compare`: two runs beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from rootstock.commands.loadtest import AsJson
from rootstock.commands.loadtest_run import INVALID, MISSED, told
from rootstock.console import emit, out, table


@told
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="hits of the run to compare with")],
    b: Annotated[Path, typer.Argument(metavar="B", help="hits of the other run")],
    worse_by: Annotated[
        float | None,
        typer.Option(help="exit 3 where a figure is worse by at least this share: 0.1", min=0),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ratios B / A with the intervals (95 %) in which chance leaves them.

    Exits 4 where one of the runs is invalid, or both are too short to be told from chance.
    """
    from loadtest.compare import comparison, worse
    from loadtest.hits import read

    value = comparison(read(a), read(b))
    bad = [] if worse_by is None else worse(value, worse_by)

    def shown(number: float | None) -> str:
        return "–" if number is None else f"{number:.4g}"

    def text() -> None:
        rows = (
            (
                row["figure"],
                shown(row["a"]),
                shown(row["b"]),
                shown(row["ratio"]),
                f"{shown(row['low'])} … {shown(row['high'])}",
                row["verdict"],
            )
            for row in value["rows"]
        )
        table(("", "A", "B", "B / A", "95 %", ""), rows)
        for line in value["differences"]:
            out.print(f"differs: {line}", markup=False)
        for name in bad:
            out.print(f"WORSE: {name}", markup=False)
        for run, faults in value["invalid"].items():
            for fault in faults:
                out.print(f"INVALID {run.upper()}: {fault}", markup=False)

    emit({**value, "worse": bad}, as_json, text)
    if any(value["invalid"].values()):
        raise typer.Exit(INVALID)
    if bad:
        raise typer.Exit(MISSED)
