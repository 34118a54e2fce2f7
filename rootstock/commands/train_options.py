"""Flags that `rootstock train` and `rootstock evaluate` share. Knows no command."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="image folder: train/<class>/*, val/…, test/…")
]
Weights = Annotated[
    Path | None, typer.Option(help="safetensors state dict of the backbone, else bundled or hub")
]
Layout = Annotated[str | None, typer.Option(metavar="NAME", help="vtab:<task> or fgvc:<data set>")]
Strict = Annotated[
    bool, typer.Option("--strict", help="refuse bad images instead of leaving them out")
]
Batch = Annotated[int | None, typer.Option(min=1, help="images a step")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0: as many as torch likes")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON value")]
