"""Files that are whole or not there. Knows nothing of what is in them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A place to write to that becomes the file at the end: all of it, or what was there before."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """The text as the whole file, in UTF-8."""
    with whole(file) as part:
        part.write_text(text, encoding="utf-8")


def shown(name: str) -> str:
    """A file's name as text that can be written: bytes that are no UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
