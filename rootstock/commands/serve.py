"""`rootstock serve`: one server on this machine, until it is told to stop."""

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import ValidationError

from rootstock.console import emit, fail, guarded, out

if TYPE_CHECKING:
    from serving.config import Token


@guarded
def serve(
    store: Annotated[
        str, typer.Option(envvar="ROOTSTOCK_STORE", help="file://, s3://, gs://, az:// or a path")
    ],
    backbone: Annotated[str, typer.Option(help="timm name, or the bundled one")] = "rootstock_nano",
    weights: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="its weights; else bundled or from the hub"),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    dtype: Annotated[
        Literal["bf16", "fp32"] | None, typer.Option(help="bf16 where this machine is fast at it")
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="cuda where there is one")
    ] = None,
    ingress: Annotated[
        Literal["haproxy", "python"], typer.Option(help="python works on any system, slower")
    ] = "haproxy",
    replicas: Annotated[int, typer.Option(min=1, max=256)] = 1,
    threads: Annotated[int, typer.Option(min=0, help="of each engine; 0: one per core")] = 0,
    merged_mb: Annotated[
        int, typer.Option(min=0, help="memory for weights of hot tasks' own; 0: none is merged")
    ] = 0,
    merge: Annotated[
        list[str] | None, typer.Option(help="a task to be merged whenever it fits; repeatable")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="lines: scope,scope token name"),
    ] = None,
    topology: Annotated[
        Literal["fused", "split"],
        typer.Option(help="split: doors decode, engines compute, each in processes of their own"),
    ] = "fused",
    doors: Annotated[int, typer.Option(min=1, max=256, help="split: doors for all engines")] = 1,
    second_look_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="of answers, computed again in idle time; 0: none"),
    ] = 0.001,
    log_format: Annotated[
        Literal["json", "text"] | None,
        typer.Option(help="what replicas log; text where standard error is a terminal"),
    ] = None,
    access_lines: Annotated[
        int, typer.Option(min=0, help="requests of a replica that are logged in a second")
    ] = 20,
    traces: Annotated[
        str, typer.Option(help="spans: module:function, such as serving.traces:otlp")
    ] = "",
    traces_share: Annotated[
        float, typer.Option(min=0, max=1, help="of requests that have spans")
    ] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON value when up")] = False,
) -> None:
    """Serve a store's tasks over HTTP until Ctrl-C or SIGTERM."""
    from serving.auth import is_loopback
    from serving.config import Settings
    from serving.launch import run

    if not store:
        fail("--store is empty")
    device = device or ("cuda" if _has_cuda() else "cpu")
    try:
        settings = Settings(
            store=store if "://" in store else str(Path(store).expanduser().resolve()),
            backbone=backbone,
            weights=None if weights is None else weights.resolve(),
            host=host,
            port=port,
            dtype=dtype or _default_dtype(device),
            device=device,
            ingress=ingress,
            replicas=replicas,
            threads=threads,
            topology=topology,
            second_look_share=second_look_share,
            log_format=log_format or ("text" if sys.stderr.isatty() else "json"),
            access_lines=access_lines,
            traces=traces,
            traces_share=traces_share,
            doors=doors,
            merged_bytes=merged_mb * 1024 * 1024,
            merged_pin=tuple(merge or ()),
            tokens=() if token_file is None else read_tokens(token_file),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fail(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    if not settings.tokens and not is_loopback(host):
        typer.secho(
            f"rootstock: no tokens, and {host} is reachable from outside: everybody may predict, "
            "and publishing answers 403. Use --token-file.",
            fg="yellow",
            err=True,
        )
    if not as_json:
        engines = f"{replicas} replica(s)"
        if topology == "split":
            engines = f"{doors} door(s), {replicas} engine(s)"
        what = f"{backbone}, {settings.dtype} on {device}, {engines}, {ingress} ingress"
        out.print(f"starting Ray Serve: {what} …", markup=False)
    # A shell without job control has its background jobs ignore SIGINT.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, signal.default_int_handler)
    began = time.monotonic()
    try:
        with run(settings, quiet=False) as server:
            value = {"url": server.url, "docs": f"{server.url}/docs", "dtype": settings.dtype}
            value |= {"device": device, "ingress": ingress, "store": settings.store}
            took_s = time.monotonic() - began
            emit(value, as_json, lambda: _welcome(server.url, took_s, tokens=bool(settings.tokens)))
            server.wait()
    except KeyboardInterrupt:
        if not as_json:
            out.print("stopped")
        return
    fail("the server ended by itself")


def read_tokens(path: Path) -> "tuple[Token, ...]":
    """Tokens of a file; of each only the hash is kept."""
    from serving import tokens

    try:
        return tokens.read(path)
    except tokens.TokenFileError as error:
        fail(str(error))


def _welcome(url: str, took_s: float, *, tokens: bool) -> None:
    bearer = "-H 'Authorization: Bearer TOKEN' " if tokens else ""
    curl = f"curl {bearer}-H 'Content-Type: image/jpeg' --data-binary @picture.jpg"
    for line in (
        f"serving {url} (up in {took_s:.0f} s)",
        f"API docs {url}/docs",
        f"\n  {curl} {url}/v1/tasks/TASK:predict\n",
        "Ctrl-C stops everything.",
    ):
        out.print(line, markup=False)


def _default_dtype(device: str) -> Literal["bf16", "fp32"]:
    """What is fast here: tensor cores, AVX512-BF16 or AMX."""
    flags: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        flags = set(cpuinfo.read_text().split())
    return "bf16" if device == "cuda" or flags & {"avx512_bf16", "amx_bf16"} else "fp32"


def _has_cuda() -> bool:
    return any(Path("/proc/driver/nvidia/gpus").glob("*"))
