"""The accuracy table: every method on packed tasks, by one protocol. Resumable, in any pieces.

    python -m tests.bench.accuracy run --data DIR --out DIR --weights FILE [--time-limit SECONDS]
    python -m tests.bench.accuracy render DIR/results.jsonl … --docs docs/results

DIR of data holds `<task>.npz`. `run` goes on from what its --out holds, and so does a run that is
given the `results.jsonl` of another machine there; `render` merges several of them. On one GPU,
`--processes 8` packs that many runs onto it.

Protocol: up to six points of each method on val with seed 0; the best one, the first among
equals, is trained anew on train and val with seeds 0, 1 and 2; after the last epoch each answers
the test images once.
"""

import argparse
import signal
import sys
from pathlib import Path

from adapters_store.threads import wait_passively

wait_passively()

from adapters_store import backbone as backbones  # noqa: E402
from tests.bench.accuracy import packs, tables  # noqa: E402
from tests.bench.accuracy.pool import Limits, work_through  # noqa: E402
from tests.bench.accuracy.rows import POINTS_MOST, ROWS, Plan  # noqa: E402
from tests.bench.accuracy.units import Journal, merged, units  # noqa: E402
from tests.bench.accuracy.work import Place  # noqa: E402
from training.trunk import default_device, native_precision  # noqa: E402


def main() -> None:
    """Read the command line and do it."""
    given = _parser().parse_args()
    if given.verb == "render":
        plan, done = merged(given.results)
        tables.write(Plan.of(plan), done, given.docs, given.name)
        return
    known = packs.tasks(given.data)
    tasks, methods = given.tasks or known, given.methods or tuple(ROWS)
    if strangers := sorted({*tasks} - {*known} | {*methods} - {*ROWS}):
        sys.exit(f"unknown: {', '.join(strangers)}; tasks are {', '.join(known)}")
    plan = Plan(
        backbone=given.backbone,
        weights=backbones.load(given.backbone, given.weights).spec.ref.digest,
        epochs=given.epochs,
        batch=given.batch,
        points=given.points,
        precision=native_precision(default_device()),
    )
    journal = Journal(given.out, plan)
    place = Place(
        data=given.data,
        weights=given.weights,
        cache=given.out / "pixels",
        threads=given.threads,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does, take workers along
    todo = [unit for unit in units(methods, tasks, plan) if unit not in journal.done]
    print(f"{len(journal.done)} units are done, {len(todo)} are to do", flush=True)
    if work_through(todo, plan, journal, place, Limits(given.processes, given.time_limit)):
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="accuracy", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="do what is not done yet")
    run.add_argument("--data", type=Path, required=True)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--backbone", default="deit_tiny_patch16_224")
    run.add_argument("--weights", type=Path)
    run.add_argument("--epochs", type=int, default=30)
    run.add_argument("--batch", type=int, default=64)
    run.add_argument("--points", type=int, default=POINTS_MOST, choices=range(1, POINTS_MOST + 1))
    run.add_argument("--methods", nargs="+")
    run.add_argument("--tasks", nargs="+")
    run.add_argument("--processes", type=int, default=1)
    run.add_argument("--threads", type=int, default=1, help="of each process")
    run.add_argument("--time-limit", type=float, default=float("inf"), help="seconds")
    render = verbs.add_parser("render", help="write the table")
    render.add_argument("results", type=Path, nargs="+")
    render.add_argument("--docs", type=Path, required=True)
    render.add_argument("--name", default="accuracy")
    return parser


if __name__ == "__main__":
    main()
