"""`rootstock store`: what is published, and who answers. Works without any server."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rootstock.commands import store_upkeep
from rootstock.commands.store_options import AsJson, Uri, Which, Why, opened
from rootstock.console import artifact_bytes, author, emit, fail, guarded, out, table

app = typer.Typer(help="Publish, list, activate and check releases.", no_args_is_help=True)

Weights = Annotated[
    Path | None, typer.Option(help="weights of the backbone, else bundled or from the hub")
]


@app.command("publish")
@guarded
def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="an artifact")],
    store: Uri,
    activate: Annotated[bool, typer.Option(help="let the release answer at once")] = True,
    weights: Weights = None,
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Check an artifact against its backbone and make it a release."""
    from adapters_store import artifact
    from adapters_store.admission import admit
    from adapters_store.backbone import for_manifest
    from adapters_store.effect import Golden
    from adapters_store.store import AdapterStore

    data = artifact_bytes(file)
    manifest = artifact.read(data, file.name).manifest
    backbone = for_manifest(manifest.backbone, weights)
    Golden(backbone).check(admit(data, backbone.spec))
    published = AdapterStore.open(store, backbone.spec.ref.digest).publish(
        data, manifest.task, by=author(), why=why, activate=activate
    )
    release = published.release
    value = {
        "task": manifest.task,
        "release": release.number,
        "digest": release.digest,
        "generation": published.generation,
        "created": published.created,
    }

    def text() -> None:
        verb = "published" if published.created else "is already"
        out.print(f"{file.name} {verb} {manifest.task}@{release.number}", markup=False)

    emit(value, as_json, text)


@app.command("list")
@guarded
def list_(store: Uri, backbone: Which = "", as_json: AsJson = False) -> None:
    """List tasks and what answers for them; exit 1 where the log goes on unreadably."""
    from adapters_store.catalog import Catalog

    caught = opened(store, backbone).catch_up(Catalog())
    catalog, blocked = caught.catalog, caught.blocked
    rows: list[dict[str, Any]] = []
    for state in sorted(catalog.tasks.values(), key=lambda s: s.name):
        if state.retired:
            continue
        active = None if state.active is None else state.find(state.active)
        rows.append(
            {
                "task": state.name,
                "active": state.active,
                "releases": sum(not r.retired for r in state.releases),
                "aliases": dict(state.aliases),
                "split": {str(k): v for k, v in state.split.items()},
                "digest": active.digest if active else None,
                "at": active.at if active else None,
                "by": active.by if active else None,
            }
        )

    def text() -> None:
        if not rows:
            out.print("no task is published")
            return
        table(
            ("task", "active", "releases", "aliases", "split", "digest", "published", "by"),
            (
                (
                    r["task"],
                    r["active"] or "–",
                    r["releases"],
                    ", ".join(f"{a}→{n}" for a, n in r["aliases"].items()),
                    ", ".join(f"{n}={weight}" for n, weight in r["split"].items()),
                    (r["digest"] or "")[:12],
                    (r["at"] or "")[:19],
                    r["by"] or "",
                )
                for r in rows
            ),
        )

    value = {
        "generation": catalog.generation,
        "blocked": str(blocked) if blocked else None,
        "tasks": rows,
    }
    emit(value, as_json, text)
    if blocked:
        fail(f"{blocked}; listed is what it came to before (generation {catalog.generation})")


@app.command("history")
@guarded
def history(task: str, store: Uri, backbone: Which = "", as_json: AsJson = False) -> None:
    """Every change of a task: what, when, by whom, why."""
    events = opened(store, backbone).history(task)
    if not events:
        fail(f"no task {task!r}")
    plain = [e.model_dump(mode="json") for e in events]
    common = {"format", "id", "generation", "at", "by", "why", "kind", "task"}

    def text() -> None:
        rows = []
        for event in plain:
            what = ", ".join(
                f"{k} {str(v)[:12]}" for k, v in event.items() if k not in common and v is not None
            )
            row = (event["generation"], event["at"][:19], event["kind"], what)
            rows.append((*row, event["by"], event["why"]))
        table(("generation", "at", "what", "of", "by", "why"), rows)

    emit(plain, as_json, text)


@app.command("activate")
@guarded
def activate(
    task: str,
    release: int,
    store: Uri,
    backbone: Which = "",
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Let a release answer for its task: also how one rolls back."""
    generation = opened(store, backbone).activate(task, release, by=author(), why=why)
    _changed(generation, f"{task}@{release} answers now", as_json)


@app.command("alias")
@guarded
def alias(
    task: str,
    name: str,
    release: Annotated[int, typer.Argument(help="0 takes the alias away")],
    store: Uri,
    backbone: Which = "",
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Point an alias at a release."""
    generation = opened(store, backbone).alias(task, name, release or None, by=author(), why=why)
    done = f"{task}@{name} is {task}@{release}" if release else f"{task}@{name} is gone"
    _changed(generation, done, as_json)


@app.command("split")
@guarded
def split(
    task: str,
    weights: Annotated[list[str], typer.Argument(help="release=weight, such as 3=90 4=10")],
    store: Uri,
    backbone: Which = "",
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Divide a task's traffic over releases."""
    shares: dict[int, int] = {}
    for item in weights:
        release, _, weight = item.partition("=")
        if not (release.isdecimal() and weight.isdecimal()):
            fail(f"{item!r} is not release=weight")
        shares[int(release)] = int(weight)
    generation = opened(store, backbone).split(task, shares, by=author(), why=why)
    _changed(generation, f"{task} is split {' '.join(weights)}", as_json)


@app.command("retire")
@guarded
def retire(
    task: str,
    store: Uri,
    release: Annotated[int, typer.Option(help="one release alone; 0: the whole task")] = 0,
    backbone: Which = "",
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Take a task, or one of its releases, out of service."""
    generation = opened(store, backbone).retire(task, release or None, by=author(), why=why)
    _changed(
        generation, f"{task}@{release} is retired" if release else f"{task} is retired", as_json
    )


app.command("verify")(store_upkeep.verify)
app.command("gc")(store_upkeep.gc)
app.command("copy")(store_upkeep.copy)


def _changed(generation: int, done: str, as_json: bool) -> None:
    emit(
        {"generation": generation},
        as_json,
        lambda: out.print(f"{done} (generation {generation})", markup=False),
    )
