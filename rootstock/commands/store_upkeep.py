"""`rootstock store verify`, `gc` and `copy`: what concerns a store as a whole."""

from typing import Annotated, Any

import typer

from rootstock.commands.store_options import AsJson, Uri, Which, Why, chosen, opened
from rootstock.console import author, emit, fail, guarded, out


@guarded
def verify(store: Uri, backbone: Which = "", as_json: AsJson = False) -> None:
    """Read every event and artifact and check each against its name; exit 1 on any fault."""
    report = opened(store, backbone).verify()
    value = {
        "ok": not report.faults,
        "events": report.events,
        "releases": report.releases,
        "blobs": report.blobs,
        "faults": list(report.faults),
    }

    def text() -> None:
        for fault in report.faults:
            out.print(f"fault: {fault}", markup=False)
        counts = f"{report.events} events, {report.releases} releases, {report.blobs} artifacts"
        out.print(f"{'ok' if not report.faults else 'NOT ok'}: {counts}")

    emit(value, as_json, text)
    if report.faults:
        raise typer.Exit(1)


@guarded
def gc(store: Uri, backbone: Which = "", as_json: AsJson = False) -> None:
    """Delete artifacts that no live release names and that are older than 24 hours."""
    report = opened(store, backbone).gc()
    value = {
        "deleted": list(report.deleted),
        "freed_bytes": report.freed_bytes,
        "young": report.young,
        "named": report.named,
        "litter": report.litter,
    }

    def text() -> None:
        out.print(f"deleted {len(report.deleted)} artifacts, {report.freed_bytes} bytes")
        if report.young:
            out.print(f"{report.young} more belong to no release but are younger than 24 hours")
        if report.litter:
            out.print(f"took away {report.litter} leftovers of writers that were killed")

    emit(value, as_json, text)


@guarded
def copy(
    store: Uri,
    to: Annotated[str, typer.Option(help="the target, an address like --store")],
    refs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK[@RELEASE]", help="its active release, or one by number or alias"
        ),
    ] = None,
    all_tasks: Annotated[bool, typer.Option("--all-tasks", help="every task")] = False,
    all_releases: Annotated[
        bool, typer.Option("--all-releases", help="every live release of each task, in order")
    ] = False,
    activate: Annotated[bool, typer.Option(help="let what is named answer in the target")] = True,
    backbone: Which = "",
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Copy releases into another store, such as from staging to production.

    The target gives its own release numbers, and its log says where each release came from.
    Aliases, splits and retired releases are not copied. Copying again changes nothing that is
    there already, so an interrupted copy is simply repeated.
    """
    from adapters_store.copying import copy_releases, plan_copy
    from adapters_store.store import AdapterStore

    if bool(refs) == all_tasks:
        fail("name the tasks to copy, or --all-tasks")
    if to == store:
        fail(f"{to} is the store to copy from")
    digest = chosen(store, backbone)
    source, target = AdapterStore.open(store, digest), AdapterStore.open(to, digest)
    catalog = source.catalog()
    names, idle = list(refs or ()), list[str]()
    for state in sorted(catalog.tasks.values(), key=lambda s: s.name) if all_tasks else ():
        if state.retired:
            continue
        (names if all_releases or state.active is not None else idle).append(state.name)
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    steps = plan_copy(catalog, names, whole=all_releases, activate=activate)
    for done in copy_releases(source, target, steps, by=author(), why=why):
        release, published = done.step.release, done.published
        before = rows.get((release.task, release.number), {})
        rows[release.task, release.number] = {
            "task": release.task,
            "from": release.number,
            "to": published.release.number,
            "digest": release.digest,
            "generation": published.generation,
            "created": published.created or before.get("created", False),
            "activated": done.step.activate,
        }

    def text() -> None:
        for row in rows.values():
            verb = "is now" if row["created"] else "is already"
            source_name, name = (f"{row['task']}@{row[end]}" for end in ("from", "to"))
            answers = ", and answers" if row["activated"] else ""
            out.print(f"{source_name} {verb} {name} in {to}{answers}", markup=False)
        for name in idle:
            out.print(f"{name} was passed over: none of its releases is active", markup=False)

    emit({"copied": list(rows.values()), "passed_over": idle}, as_json, text)
