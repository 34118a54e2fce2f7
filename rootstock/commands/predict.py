"""`rootstock predict`: send pictures to a server."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rootstock.console import emit, fail, guarded, table


@guarded
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="pictures to classify")],
    task: Annotated[str, typer.Option(help="task, task@release or task@alias")],
    url: Annotated[str, typer.Option(help="of the server")] = "http://127.0.0.1:8000",
    top_k: Annotated[int, typer.Option(min=1, max=1000)] = 3,
    token: Annotated[str | None, typer.Option(envvar="ROOTSTOCK_TOKEN")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON value")] = False,
) -> None:
    """Classify pictures for a task; exits 1 when any of them is refused."""
    import httpx2 as httpx

    from rootstock.client import Client, RootstockHTTPError

    results: list[dict[str, Any]] = []
    failed = 0
    with Client(url, token) as client:
        for image in images:
            try:
                answer = client.predict(task, image, top_k=top_k)
            except RootstockHTTPError as error:
                failed += 1
                answer = dict(error.problem)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                fail(f"no answer from {url}: {error}")
            results.append({"image": str(image), **answer})

    def text() -> None:
        rows = []
        for result in results:
            if "predictions" not in result:
                rows.append((result["image"], "–", "refused: " + str(result.get("detail", ""))))
                continue
            best = ", ".join(f"{p['label']} {p['probability']:.3f}" for p in result["predictions"])
            rows.append((result["image"], f"{result['task']}@{result['release']}", best))
        table(("image", "release", "labels"), rows)

    emit(results, as_json, text)
    if failed:
        raise typer.Exit(1)
