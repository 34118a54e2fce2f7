"""What the engine's benchmarks share: options, how they tell what they do, and their tables."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from rootstock.console import emit, fail, table

if TYPE_CHECKING:
    from rootstock.bench.adapters import Choice
    from rootstock.bench.proof import WrongAnswerError
    from rootstock.bench.setting import Row, Setting, Tell

BackboneName = Annotated[str, typer.Option("--backbone", help="timm name, or the bundled one")]
Weights = Annotated[
    Path | None, typer.Option(help="its weights, else random ones: speed does not depend on them")
]
Dtype = Annotated[str, typer.Option(help="bf16 or fp32")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Threads = Annotated[int, typer.Option(help="of the engine; 0: one a core", min=0)]
OneMethod = Annotated[str, typer.Option("--method", help="such as alore, or lora:rank=4")]
Batch = Annotated[
    int, typer.Option(help="samples in a batch; 0: 32, or 16 of a large backbone", min=0)
]
TailBatch = Annotated[
    int, typer.Option(help="samples in a batch; 0: 8, so that a tail has many batches", min=0)
]
Rounds = Annotated[int, typer.Option(help="turns of each arm", min=1)]
Compiled = Annotated[
    bool, typer.Option("--compiled", help="also try the bare backbone through torch.compile")
]
TAIL_BATCH: Final = 8
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON value")]


def opened(backbone: str, weights: Path | None, dtype: str, device: str, threads: int) -> "Setting":
    """The backbone and an engine, as the options say."""
    from rootstock.bench.setting import Setting

    if dtype not in ("bf16", "fp32"):
        fail(f"--dtype is bf16 or fp32, not {dtype!r}")
    try:
        return Setting.open(backbone, weights, dtype, device, threads)
    except (AssertionError, RuntimeError) as error:  # torch has several words for no such device
        fail(f"--device {device}: {str(error).splitlines()[0][:150]}")


def chosen(words: Sequence[str], setting: "Setting") -> "list[Choice]":
    """Methods by name, or the usual ones."""
    from rootstock.bench.adapters import choices

    try:
        return choices(words, setting.backbone.spec)
    except ValueError as error:  # it has no place on the backbone
        fail(str(error))


def of_these(words: Sequence[str] | None, known: Sequence[str], option: str) -> Sequence[str]:
    """Words out of a few; all of them by default."""
    if unknown := sorted(set(words or ()) - set(known)):
        fail(f"{option} is {', '.join(known)}, not {unknown[0]!r}")
    return words or known


def proven(rows: "Iterable[Row]") -> "tuple[list[Row], WrongAnswerError | None]":
    """The rows, up to the first wrong answer."""
    from rootstock.bench.proof import WrongAnswerError

    found: list[Row] = []
    try:
        found.extend(rows)
    except WrongAnswerError as error:
        return found, error
    return found, None


def finish(
    found: "list[Row]",
    wrong: "WrongAnswerError | None",
    as_json: bool,
    columns: dict[str, Any],
    summary: Callable[[], None] = lambda: None,
) -> None:
    """Print the rows that were proven; fail if those are not all."""

    def text() -> None:
        table(tuple(columns), ([cell(row) for cell in columns.values()] for row in found))
        if wrong is None:
            summary()

    if found:
        emit(found, as_json, text)
    if wrong is not None:
        fail(str(wrong))


@contextmanager
def told() -> "Iterator[Tell]":
    """What is being done: a line that changes on a terminal, plain lines elsewhere; on stderr."""
    from rootstock.bench.setting import Tell

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield Tell(doing=_say, note=_say)
        return
    with console.status("") as status:
        yield Tell(doing=status.update, note=lambda text: console.print(text, markup=False))


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def system_of(row: "Row") -> str:
    """With the form, where there are several."""
    chosen = " (reference)" if row.get("reference") is True else ""
    return f"{row['system']}: {row['form']}{chosen}" if "form" in row else row["system"]


def method_of(row: "Row") -> str:
    """The bare backbone has none."""
    return "–" if row["system"] == "bare" else row["method"]


BATCH = {"batch": lambda r: r["batch"], "distinct": lambda r: r["distinct"]}
RATIO = {
    "ratio": lambda r: "–" if r["ratio"] is None else f"{r['ratio']:.3f}",
    "quartiles": lambda r: (
        "–" if r["quartiles"] is None else "{:.3f} … {:.3f}".format(*r["quartiles"])
    ),
}
SPEED = {"images/s": lambda r: f"{r['images_per_s']:.1f}"}
TAIL = {
    "p99 ratio": lambda r: f"{r['p99_ratio']:.3f}" if "p99_ratio" in r else "–",
    "p99 quartiles": lambda r: (
        "{:.3f} … {:.3f}".format(*r["p99_quartiles"]) if "p99_quartiles" in r else "–"
    ),
    "p99 of": lambda r: f"{r['p99_of']} batches" if "p99_of" in r else "–",
}
