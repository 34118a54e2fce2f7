"""`rootstock loadtest`: load a server from outside, and say what it was like."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rootstock.commands.loadtest_run import (
    BROKEN_OFF,
    INVALID,
    MISSED,
    attacked,
    interruptible,
    say,
    told,
)
from rootstock.console import out

if TYPE_CHECKING:
    from loadtest.scenario import Scenario

app = typer.Typer(
    help="Load a server from outside, and say what it was like.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="SCENARIO", help="bundled name, or a TOML file")]
Url = Annotated[str | None, typer.Option(help="of the server; else the scenario's")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="of the scenario: slo.latency_ms=50"),
]
Seed = Annotated[int | None, typer.Option(min=0, help="of everything that is drawn")]
Workers = Annotated[int | None, typer.Option(min=1, max=256, help="client processes")]
Images = Annotated[Path | None, typer.Option(help="folder of pictures; else drawn ones")]
Token = Annotated[str | None, typer.Option(envvar="ROOTSTOCK_TOKEN")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON value")]
Html = Annotated[Path | None, typer.Option(help="also write the report as a page")]


@app.callback()
def group() -> None:
    """Load a server from outside, and say what it was like."""


@app.command("attack")
@told
def attack(
    name: Name = "steady",
    url: Url = None,
    rate: Annotated[float | None, typer.Option(help="requests a second")] = None,
    duration: Annotated[float | None, typer.Option(help="seconds, warm-up included")] = None,
    seed: Seed = None,
    workers: Workers = None,
    images: Images = None,
    setting: Settings = None,
    output: Annotated[
        Path | None, typer.Option("--out", help="file of hits; else SCENARIO.hits.npz")
    ] = None,
    html: Html = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Run a scenario, keep every hit, and report.

    Exits 3 where a limit of `slo.limits` was not kept, 4 where the client fell behind, 130 when
    it was broken off; the report is there in each case.
    """
    from loadtest.hits import write

    scenario = chosen(
        name, url, setting, token, duration_s=duration, seed=seed, workers=workers, images=images
    )
    if rate is not None:
        scenario = _rated(scenario, rate)
    file = output or Path(f"{scenario.name.replace('/', '-')}.hits.npz")
    writable(file, html)
    hits = interruptible(lambda stop: attacked(scenario, stop, quiet=as_json))
    write(hits, file)
    if not as_json:
        say(f"hits: {file}")
    _show(file, html, as_json, scenario.slo.limits)


@app.command("report")
@told
def report(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="hits of an attack")],
    html: Html = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="exit 3 unless kept: p99_ms=80, goodput=50"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what the hits of a run say; with the exit codes of `attack`."""
    from loadtest.errors import ScenarioError
    from loadtest.limits import check_names

    limits: dict[str, float] = {}
    for text in limit or ():
        name, _, value = text.partition("=")
        try:
            limits[name] = float(value)
        except ValueError:
            raise ScenarioError("--limit", (f"{text!r} is not name=number",)) from None
    check_names(limits)
    writable(html)
    _show(file, html, as_json, limits)


def writable(*files: Path | None) -> None:
    """See that there are folders for these, before a long run whose result would be lost.

    Raises:
        OSError: one is no file in a folder.
    """
    for file in filter(None, files):
        if not file.parent.is_dir():
            raise FileNotFoundError(2, "no such folder", str(file.parent))
        if file.is_dir():
            raise IsADirectoryError(21, "a folder", str(file))


def chosen(
    name: str, url: str | None, settings: list[str] | None, token: str | None, **options: Any
) -> "Scenario":
    """The scenario with what the command line says over it."""
    from loadtest.scenario_file import load

    words = list(settings or ())
    if url is not None:
        words.append(f"target.url={json.dumps(url)}")
    if (images := options.pop("images", None)) is not None:
        words.append(f"images.folder={json.dumps(str(images.absolute()))}")
    words += [f"{key}={value}" for key, value in options.items() if value is not None]
    scenario = load(name, words)
    if token is None:
        return scenario
    headers = {**scenario.target.headers, "Authorization": f"Bearer {token}"}
    target = scenario.target.model_copy(update={"headers": headers})
    return scenario.model_copy(update={"target": target})


def _rated(scenario: "Scenario", rate: float) -> "Scenario":
    from loadtest.errors import ScenarioError
    from loadtest.scenario import at_rate

    try:
        return at_rate(scenario, rate)
    except ValueError:
        raise ScenarioError("--rate", (f"{rate:g} requests a second are no rate",)) from None
    except TypeError as error:
        raise ScenarioError("--rate", (f"arrivals of kind {error} have no rate",)) from None


def _show(file: Path, html: Path | None, as_json: bool, limits: dict[str, float]) -> None:
    """Print, write, and end with the exit code that the report deserves."""
    from loadtest.hits import read
    from loadtest.limits import missed
    from loadtest.report.page import page
    from loadtest.report.summary import report as reported
    from loadtest.report.text import text

    hits = read(file)
    value = reported(hits)
    value["limits_missed"] = missed(value, limits)
    if html is not None:
        html.write_text(page(value, hits), encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    else:
        out.print(text(value), markup=False)
        for line in value["limits_missed"]:
            out.print(f"MISSED      {line}", markup=False)
        if html is not None:
            out.print(f"page: {html}", markup=False)
    ends = (
        (value["interrupted"], BROKEN_OFF),
        (not value["valid"], INVALID),
        (bool(value["limits_missed"]), MISSED),
    )
    for so, code in ends:
        if so:
            raise typer.Exit(code)
