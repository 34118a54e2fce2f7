"""What every `rootstock store` command takes: where the store is, and for which backbone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rootstock.console import fail

if TYPE_CHECKING:
    from adapters_store.store import AdapterStore

Uri = Annotated[
    str, typer.Option("--store", envvar="ROOTSTOCK_STORE", help="file://, s3://, gs:// or az://")
]
Which = Annotated[
    str, typer.Option("--backbone", help="digest (or its start), where the store has several")
]
Why = Annotated[str, typer.Option(help="kept in the log")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON value")]


def opened(uri: str, backbone: str) -> "AdapterStore":
    """The store of the one backbone there, or of the one that is named."""
    from adapters_store.store import AdapterStore

    return AdapterStore.open(uri, chosen(uri, backbone))


def chosen(uri: str, backbone: str) -> str:
    """The first 16 digits of that backbone's digest."""
    from adapters_store.store import list_backbones

    local = uri.removeprefix("file://")
    if ":/" not in local and not Path(local).is_dir():  # looking must not make a folder
        fail(f"nothing is published in {uri}: there is no such folder")
    known = list_backbones(uri)
    found = [digest for digest in known if digest.startswith(backbone[:16])]
    if not found:
        fail(f"nothing is published in {uri}" + (f" for backbone {backbone}" if backbone else ""))
    if len(found) > 1:
        fail(f"{uri} serves several backbones; name one with --backbone: {', '.join(found)}")
    return found[0]
