"""`rootstock loadtest saturate`: the highest rate that a server bears."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rootstock.commands.loadtest import (
    AsJson,
    Html,
    Images,
    Name,
    Seed,
    Settings,
    Token,
    Url,
    Workers,
    chosen,
    writable,
)
from rootstock.commands.loadtest_run import BROKEN_OFF, INVALID, MISSED, interruptible, say, told
from rootstock.console import out

if TYPE_CHECKING:
    from loadtest.hits import Hits


@told
def saturate(
    name: Name = "steady",
    url: Url = None,
    slo: Annotated[float | None, typer.Option(help="milliseconds, at p99")] = None,
    start: Annotated[float | None, typer.Option(help="first rate, requests a second")] = None,
    step: Annotated[float | None, typer.Option(help="seconds of each rate")] = None,
    seed: Seed = None,
    workers: Workers = None,
    images: Images = None,
    setting: Settings = None,
    output: Annotated[Path | None, typer.Option("--out", help="also write the JSON")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="folder for the hits of every step; made if missing")
    ] = None,
    html: Html = None,
    at_least: Annotated[
        float | None, typer.Option(help="exit 3 where fewer requests a second are borne")
    ] = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Find the highest rate with p99 within the SLO, then overload, then watch the recovery.

    Exits 3 where it is less than --at-least, 4 where the client was the limit, 130 when broken off.
    """
    from loadtest.report.saturation import page, text
    from loadtest.saturate import saturate as searched

    words = list(setting or ())
    limits = {"slo.latency_ms": slo, "saturate.start_rate": start, "saturate.step_s": step}
    words += [f"{key}={value}" for key, value in limits.items() if value is not None]
    scenario = chosen(name, url, words, token, seed=seed, workers=workers, images=images)
    writable(output, html)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    count = 0

    def seen(row: dict[str, Any], hits: "Hits") -> None:
        from loadtest.hits import write

        nonlocal count
        if keep is not None:
            write(hits, keep / f"{count:02d}.hits.npz")
        count += 1
        if not as_json:
            say(_line(row))

    found = interruptible(lambda stop: searched(scenario, step=seen, stop=stop))
    if output is not None:
        output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if html is not None:
        html.write_text(page(found), encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    else:
        out.print(text(found), markup=False)
    borne = found["knee"] or 0.0
    ends = (
        (found["interrupted"], BROKEN_OFF),
        (found["bound"] == "client" and borne < (at_least or float("inf")), INVALID),
        (borne == 0.0 or borne < (at_least or 0.0), MISSED),
    )
    for so, code in ends:
        if so:
            raise typer.Exit(code)


def _line(row: dict[str, Any]) -> str:
    if "overload" in row:
        return f"{row['rate']:8.1f}/s  overload, then half the knee"
    p99 = "–" if row["p99_ms"] is None else f"{row['p99_ms']:.1f}"
    why = "borne" if row["passed"] else f"too much: {', '.join(row['reasons'])}"
    return f"{row['rate']:8.1f}/s  p99 {p99} ms  {why}"
