"""`python -m loadtest.peers`: everybody in turn, then docs/results/peers.md and peers.json.

    python -m loadtest.peers [--systems litserve,peft] [--tasks 1,8,100] [--rounds 2] [--seconds 6]

Knows options and files. What is measured already lies in OUT/parts and is not measured again.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from loadtest.environment import environment
from loadtest.errors import LoadtestError
from loadtest.peers import campaign, rows
from loadtest.peers.page import page
from loadtest.peers.systems import SYSTEMS, named
from loadtest.peers.workplace import Order, Workplace, workplace

SCHEMA: Final = "rootstock-peers/1"
_BROKEN_OFF: Final = 130
_CONDITIONS: Final = (
    *("backbone", "weights", "dtype", "images", "pictures", "tasks"),
    *("seconds", "clients", "slo_ms", "rate"),
)
_UNTOLD: Final = ("out", "notes", "fresh", "keep_parts")


def main() -> int:
    """Measure and write; the exit code."""
    given = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:6.0f} s] {line}\n")
        sys.stderr.flush()

    try:
        wanted = _wanted(given)
        order = Order(
            given.backbone, given.weights, given.dtype, given.images, given.pictures, wanted.tasks
        )
        if given.fresh:
            shutil.rmtree(wanted.folder, ignore_errors=True)
        with workplace(order, say) as place:
            done = asyncio.run(campaign.run(wanted, place, _key(given), say))
            result = _result(given, wanted, place, done)
    except LoadtestError as error:
        say(f"{error}")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("broken off; the same command goes on")
        return _BROKEN_OFF
    notes = given.notes.read_text() if given.notes is not None else ""
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "peers.json").write_text(json.dumps(result, indent=1) + "\n")
    text = page(result, notes)
    (given.out / "peers.md").write_text(text)
    sys.stdout.write(text)
    if not given.keep_parts:
        shutil.rmtree(wanted.folder, ignore_errors=True)
    return 0


def _wanted(given: argparse.Namespace) -> campaign.Wanted:
    try:
        systems = named(given.systems)
    except KeyError as error:
        known = ", ".join(system.name for system in SYSTEMS)
        raise SystemExit(f"no such system: {error.args[0]}; there are {known}") from None
    return campaign.Wanted(
        systems=systems,
        tasks=tuple(sorted({int(n) for n in given.tasks.split(",")})),
        rounds=given.rounds,
        seconds=given.seconds,
        clients=given.clients,
        slo_ms=given.slo_ms,
        start_s=given.start_s,
        rate=given.rate,
        folder=given.out / "parts",
    )


def _key(given: argparse.Namespace) -> dict[str, Any]:
    """What has to be the same for parts to be of one run; more rounds may be added."""
    found = {name: getattr(given, name) for name in _CONDITIONS}
    return {n: v if isinstance(v, int | float | str | None) else v.name for n, v in found.items()}


def _command(given: argparse.Namespace) -> str:
    """What anybody would type to measure the same: files and folders are their own."""
    words = []
    for name, value in vars(given).items():
        if value == _parser().get_default(name) or name in _UNTOLD:
            continue
        told = {"weights": "FILE", "images": "DIR"}.get(name, value)
        words.append(f"--{name.replace('_', '-')} {told}")
    return "make bench-peers" + (f' PEERS="{" ".join(words)}"' if words else "")


def _result(
    given: argparse.Namespace, wanted: campaign.Wanted, place: Workplace, done: campaign.Campaign
) -> dict[str, Any]:
    found = rows.rows(done.parts, given.dtype)
    voids = {part["system"]: rows.voids(part, given.dtype) for part in done.parts}
    machine = environment()
    machine.pop("command")
    kilobytes = sum(len(p.data) for p in place.pictures) / len(place.pictures) / 1000
    return {
        "schema": SCHEMA,
        "command": _command(given),
        "backbone": given.backbone,
        "dtype": given.dtype,
        "machine": machine,
        "load": {
            "rounds": max((len(part["rounds"]) for part in done.parts), default=0),
            "seconds": given.seconds,
            "clients": given.clients,
            "slo_ms": given.slo_ms,
            "rates": [round(rate, 1) for rate in done.rates],
            "tuned_with": wanted.tuned_with,
            "pictures": len(place.pictures),
            "picture_kb": round(kilobytes, 1),
        },
        "systems": campaign.described(wanted.systems, done, voids),
        "rows": found,
        "verdicts": rows.verdicts(found),
        "lost": rows.lost(found),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers", description=__doc__)
    parser.add_argument(
        "--backbone", default="rootstock_nano", help="timm name, or the bundled one"
    )
    parser.add_argument("--weights", type=Path, help="safetensors file of the backbone's weights")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--images", type=Path, help="folder of JPEG files; else they are drawn")
    parser.add_argument("--pictures", type=int, default=16, help="how many of them")
    parser.add_argument("--systems", default="all", help="names with commas between them")
    parser.add_argument("--tasks", default="1,8,100", help="numbers of tasks")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a load")
    parser.add_argument("--clients", type=int, default=16, help="of closed loops")
    parser.add_argument("--slo-ms", type=float, default=250.0)
    parser.add_argument("--start-s", type=float, default=180.0, help="to answer for every task")
    parser.add_argument("--rate", type=float, default=0.0, help="a second; 0: 0.6 x the slowest")
    parser.add_argument("--notes", type=Path, help="Markdown to go under the tables")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--keep-parts", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
