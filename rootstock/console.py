"""How commands speak: one JSON value or one readable text, and one clear line on failure.

Knows no command. A user's mistake never shows a traceback.
"""

import getpass
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

P = ParamSpec("P")
R = TypeVar("R")

out = Console(highlight=False, soft_wrap=True)


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with one line on stderr."""
    # Names of files and of what is in them come from strangers, a terminal does as it is told.
    shown = "\n".join(map(_printable, message.split("\n")))
    typer.secho(f"rootstock: {shown}", fg="red", err=True)
    raise typer.Exit(code)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn every error that is raised on purpose, and bad files, into one line and exit 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from adapters_store.errors import RootstockError
        from rootstock.client import RootstockHTTPError

        try:
            return command(*args, **kwargs)
        except RootstockError as error:
            fail(str(error))
        except RootstockHTTPError as error:
            fail(f"the server answered {error}")
        except FileNotFoundError as error:
            fail(f"no such file or folder: {error.filename}")
        except IsADirectoryError as error:
            fail(f"{error.filename} is a folder, a file was expected")
        except OSError as error:
            fail(f"{error.filename or 'the system'}: {error.strerror or error}")

    return run


def author() -> str:
    """Who makes a change, for the log; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def artifact_bytes(file: Path) -> bytes:
    """The bytes of an artifact that a user names: of a regular file, or of a link to one.

    Looked at only if it is not too large. A pipe is not waited for, a device is not read.
    """
    from adapters_store.artifact import ARTIFACT_BYTES_MAX

    def check(found: os.stat_result) -> None:
        if stat.S_ISDIR(found.st_mode):
            fail(f"{file} is a folder, a file was expected")
        if not stat.S_ISREG(found.st_mode):
            fail(f"{file} is a pipe, a socket or a device, a file was expected")
        if found.st_size > ARTIFACT_BYTES_MAX:
            fail(f"{file} has {found.st_size} bytes; an artifact has at most {ARTIFACT_BYTES_MAX}")

    check(file.stat())  # some devices do something when they are opened
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as handle:
        found = os.fstat(handle.fileno())
        check(found)
        return handle.read(found.st_size + 1)  # what grows meanwhile is no artifact


def emit(value: Any, as_json: bool, text: Callable[[], None]) -> None:
    """Print `value` as JSON, or call `text` to print it for a reader."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    else:
        text()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A plain aligned table; numbers to the right, and no cell is ever cut short."""
    lines = [tuple(columns), *(tuple(_printable(str(cell)) for cell in row) for row in rows)]
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    body = list(zip(*lines[1:], strict=True)) or [()] * len(widths)
    right = [
        bool(cells) and all(c[:1].isdigit() or c in ("", "–") for c in cells) for cells in body
    ]
    for number, line in enumerate(lines):
        cells = (
            " " * (width - cell_len(cell)) + cell if to_right else set_cell_size(cell, width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        out.print(Text("  ".join(cells).rstrip(), style="" if number else "bold"))
