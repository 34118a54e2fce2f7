"""`rootstock methods`: what each method costs on a backbone."""

from typing import Annotated, Any

import typer

from rootstock.console import emit, fail, guarded, table


@guarded
def methods(
    backbone: Annotated[str, typer.Option(help="timm name, or the bundled one")] = "rootstock_nano",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="an option, as method.name=value")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON value")] = False,
) -> None:
    """One row a method: parameters, bytes, rank, targets, extra multiply-adds a token."""
    from adapters_store.backbone import describe
    from adapters_store.methods.summary import summaries

    given: dict[str, dict[str, Any]] = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        method, dot, option = name.partition(".")
        if not equals or not dot:
            fail(f"--set wants method.option=value, not {setting!r}")
        given.setdefault(method, {})[option] = value
    rows = summaries(describe(backbone), given)
    columns = (
        "method", "parameters", "artifact_bytes", "rank", "targets", "macs_per_token",
        "relative_macs",
    )  # fmt: skip

    def text() -> None:
        shown = (
            [r[c] if c != "relative_macs" else f"{100 * r[c]:.2f} %" for c in columns] for r in rows
        )
        table([c.replace("_", " ") for c in columns], shown)

    emit(rows, as_json, text)
