"""Offered load against goodput: half to three times of what a server bears, by the load tester.

    python -m tests.bench.overload --images DIR [--weights FILE] [--backbone NAME] [--seconds 8]

What it bears is the best rate of three closed loops of 16 clients, in the same run. Rates take
turns, up and down, so that a slow minute of the machine does not fall on one of them. The client
shares the server's cores. Writes docs/results/overload.json and overload.md.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_store.threads import wait_passively

wait_passively()

from adapters_store import artifact  # noqa: E402
from adapters_store import backbone as backbones  # noqa: E402
from adapters_store.store import AdapterStore  # noqa: E402
from loadtest.attack import attack  # noqa: E402
from loadtest.report.summary import report  # noqa: E402
from loadtest.scenario_file import made  # noqa: E402
from serving.config import Settings  # noqa: E402
from serving.launch import free_port, run  # noqa: E402
from tests.conftest import make_adapter  # noqa: E402

DOCS = Path(__file__).parents[2] / "docs" / "results"
TASKS = 8
SHARES = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
SLO_MS = 1000


def main() -> None:
    """Measure and write."""
    given = _arguments()
    backbone = backbones.load(given.backbone, given.weights)
    with tempfile.TemporaryDirectory(prefix="overload-") as folder:
        store = f"file://{folder}/store"
        opened = AdapterStore.open(store, backbone.spec.ref.digest)
        for i in range(TASKS):
            own = make_adapter(backbone, "alore" if i % 2 else "lora", f"task-{i}", seed=i)
            opened.publish(artifact.write(own), f"task-{i}", by="bench")
        settings = Settings(
            store=store,
            backbone=given.backbone,
            weights=given.weights,
            dtype=given.dtype,
            port=free_port(),
            topology=given.topology,
        )
        with run(settings) as server:
            sustained, rows = asyncio.run(measured(server.url, given))
    value = {
        "command": "python -m tests.bench.overload",
        "backbone": given.backbone,
        "dtype": given.dtype,
        "topology": given.topology,
        "cores": os.cpu_count(),
        "slo_ms": SLO_MS,
        "rounds": given.rounds,
        "seconds": given.seconds,
        "sustained": sustained,
        "rows": rows,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    name = "overload" if given.topology == "fused" else f"overload_{given.topology}"
    (given.out / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")
    (given.out / f"{name}.md").write_text("\n".join(text(value)) + "\n")
    print("\n".join(text(value)))


async def measured(url: str, given: argparse.Namespace) -> tuple[float, list[dict[str, Any]]]:
    """What is borne, and a row for each share of it."""
    closed = {"kind": "closed", "clients": 16}
    await one(url, given, closed)  # a server that has just come up is slower
    rates = [(await one(url, given, closed))["rates"]["ok"] for _ in range(3)]
    sustained = max(rates)  # whatever else the machine does can only take from it
    found: dict[float, list[dict[str, Any]]] = {share: [] for share in SHARES}
    for number in range(given.rounds):
        for share in SHARES if number % 2 == 0 else SHARES[::-1]:
            arrivals = {"kind": "poisson", "rate": share * sustained}
            found[share].append(await one(url, given, arrivals))
            await asyncio.sleep(2)
    return sustained, [row(share, runs) for share, runs in found.items()]


async def one(url: str, given: argparse.Namespace, arrivals: Mapping[str, Any]) -> dict[str, Any]:
    """The report of one run."""
    value = {
        "duration_s": given.seconds,
        "warmup_s": 1,
        "in_flight_max": 4096,
        "arrivals": arrivals,
        "slo": {"latency_ms": SLO_MS},
        "target": {"url": url},
        "images": {"folder": str(given.images)} if given.images else {},
    }
    return report(await attack(made("overload", value)))


def row(share: float, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the runs of one rate."""

    def middle(values: Sequence[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return round(statistics.median(there), 1) if there else None

    statuses: dict[str, int] = {}
    for one_run in runs:
        for status, count in one_run["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    p50 = [r["latency_ms"].get("p50") for r in runs]
    p99 = [r["latency_ms"].get("p99") for r in runs]
    return {
        "share": share,
        "offered": middle([r["rates"]["offered"] for r in runs]),
        "goodput": middle([r["rates"]["goodput"] for r in runs]),
        "p50_ms": middle(p50),
        "p99_ms": middle(p99),
        "tail": middle([b / a for a, b in zip(p50, p99, strict=True) if a and b]),
        "statuses": dict(sorted(statuses.items())),
        "wrong": sum(sum(r["wrong"].values()) for r in runs),
        "client_behind": sum(not r["valid"] for r in runs),
    }


def text(value: dict[str, Any]) -> list[str]:
    """The page."""
    best = max(row["goodput"] for row in value["rows"])
    columns = (
        *("rate", "offered /s", "goodput /s", "of the best", "p50 ms", "p99 ms", "p99 ÷ p50"),
        *("statuses", "wrong", "client late in"),
    )
    return [
        f"# Overload, topology {value['topology']}",
        "",
        f"Written by `{value['command']}`; not by hand. {value['backbone']},",
        f"{value['dtype']}, {TASKS} tasks, HAProxy, {value['cores']} cores that the client shares.",
        f"Poisson arrivals; {value['rounds']} runs of {value['seconds']} s a rate, medians.",
        f"The best of three closed loops of 16 clients had {value['sustained']:.1f}/s: the rate 1.",
        f"Goodput: right answers within {value['slo_ms']} ms. Latency: of answered requests.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'--:|' * len(columns)}",
        *(
            f"| {r['share']:g} | {r['offered']} | {r['goodput']} | {r['goodput'] / best:.2f} "
            f"| {r['p50_ms']} | {r['p99_ms']} | {r['tail']} "
            f"| {', '.join(f'{k}: {n}' for k, n in r['statuses'].items())} | {r['wrong']} "
            f"| {r['client_behind']} |"
            for r in value["rows"]
        ),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--backbone", default="rootstock_nano")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--topology", default="fused", choices=("fused", "split"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=DOCS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
