"""The `rootstock` command: which sub-commands exist; each is a file of `rootstock/commands`."""

import typer

from adapters_store.threads import wait_passively
from rootstock.commands import (
    adapter,
    bench,
    demo,
    evaluate,
    loadtest,
    loadtest_compare,
    loadtest_saturate,
    methods,
    predict,
    serve,
    store,
    train,
)

app = typer.Typer(
    name="rootstock",
    help="Thousands of image-classification tasks served from one frozen vision backbone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(adapter.app, name="adapter")
app.add_typer(store.app, name="store")
app.command("serve")(serve.serve)
app.command("predict")(predict.predict)
loadtest.app.command("compare")(loadtest_compare.compare)
loadtest.app.command("saturate")(loadtest_saturate.saturate)
app.add_typer(loadtest.app, name="loadtest")
app.add_typer(bench.app, name="bench")
app.command("methods")(methods.methods)


def main() -> None:
    """Entry point of the installed command."""
    wait_passively()
    app()
