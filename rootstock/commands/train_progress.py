"""How far training is: bars on a terminal, lines elsewhere, always on stderr. Knows no training."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from training.watch import Epoch, Watch

_SHOWN: Final = 10  # files that were left out, by name


@dataclass(frozen=True, slots=True)
class Teller:
    """Who tells the user."""

    say: Callable[[str], None]  # a line
    watching: "Callable[[str], Watch]"  # of a run, by its name; the nameless one is alone


@contextmanager
def telling() -> Iterator[Teller]:
    """A bar a run on a terminal, a line an epoch elsewhere."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield Teller(say, _lines)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        yield Teller(
            lambda text: bar.console.print(text, markup=False), lambda name: _bar(bar, name)
        )


def say(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def left_out(place: Path, skipped: Sequence[str]) -> None:
    """Say how many files could not be decoded, and the first of them."""
    if not skipped:
        return
    many = "1 file" if len(skipped) == 1 else f"{len(skipped)} files"
    say(f"{place}: left out {many} that cannot be decoded")
    for line in skipped[:_SHOWN]:
        say(f"  {line}")
    if len(skipped) > _SHOWN:
        say(f"  … and {len(skipped) - _SHOWN} more")


def _lines(name: str) -> "Watch":
    from training.watch import Watch

    before = f"{name}  " if name else ""
    return Watch(
        on_epoch=lambda row: say(before + _line(row)),
        on_resume=lambda done, of: say(f"{before}goes on after step {done} of {of}"),
    )


def _bar(bar: Progress, name: str) -> "Watch":
    from training.watch import Watch

    row = bar.add_task(name or "training", note="", total=None, start=False)
    stepped = threading.Event()  # of runs in other processes, only epochs are told

    def on_epoch(epoch: "Epoch") -> None:
        bar.update(row, note=_note(epoch))
        if not stepped.is_set():
            bar.start_task(row)
            bar.update(row, completed=epoch.epoch, total=epoch.epochs)
        if epoch.epoch == epoch.epochs and name:
            bar.update(row, visible=False)

    def on_step(done: int, of: int) -> None:
        stepped.set()
        bar.start_task(row)
        bar.update(row, completed=done, total=of)

    return Watch(on_epoch=on_epoch, on_step=on_step)


def _line(row: "Epoch") -> str:
    train = f"train {100 * row.train_accuracy:.1f} %"
    return (
        f"epoch {row.epoch}/{row.epochs}  {_note(row)}  {train}  "
        f"lr {row.lr:.2e}  {row.seconds:.1f} s"
    )


def _note(row: "Epoch") -> str:
    val = "" if row.val_accuracy is None else f"  val {100 * row.val_accuracy:.1f} %"
    return f"loss {row.loss:.4f}{val}"
