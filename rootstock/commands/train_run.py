"""From a command line of `rootstock train` to files: read, train, write, publish, report."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootstock.commands import train_order as orders
from rootstock.commands import train_report as reports
from rootstock.commands.train_progress import Teller, left_out, say, telling
from rootstock.commands.train_wanted import Wanted, cleared
from rootstock.console import author
from training.files import whole

if TYPE_CHECKING:
    from adapters_store.backbone import Backbone
    from adapters_store.store import AdapterStore
    from training.acts import Hands
    from training.data import TaskData
    from training.protocol import Trial


def done(wanted: Wanted) -> list[reports.Ended]:
    """Every task of the command, trained, written, published and reported."""
    from adapters_store import backbone as backbones

    precision = orders.settled_threads(wanted.threads)
    order = orders.ordered(
        wanted.method, wanted.layout, wanted.settings, wanted.sweep, wanted.seeds, precision
    )
    frozen = backbones.load(wanted.backbone, wanted.weights)
    for name in wanted.names:
        orders.check(order, name, frozen.spec)
    shelf = _shelf(wanted.store, frozen.spec.ref.digest)  # before an hour of training
    for line in order.says:
        say(line)
    alone = wanted.tasks is None
    places = {name: wanted.data if alone else wanted.data / name for name in wanted.names}
    images = {
        name: _read(place, order, frozen, strict=wanted.strict) for name, place in places.items()
    }
    (wanted.output.parent if alone else wanted.output).mkdir(parents=True, exist_ok=True)
    with telling() as teller:
        for name, found in images.items():
            teller.say(_announced(name, found, order, frozen))
        if alone:
            endings = [_alone(wanted, wanted.names[0], images, frozen, order, teller)]
        else:
            endings = _together(wanted, images, frozen, order, teller)
    for ended in endings:  # all files before anything that can fail: they took the time
        _written(ended)
    endings = [_published(ended, shelf) for ended in endings]
    for ended in endings:
        reports.reported(ended, frozen, wanted.begun)
    if alone:
        cleared(wanted.unfinished)
    return endings


def _read(place: Path, order: orders.Order, frozen: "Backbone", *, strict: bool) -> "TaskData":
    from training.presets import open_data

    recipe = order.points[0].recipe
    images = open_data(
        place,
        recipe.preprocess(frozen.spec),
        layout=order.layout,
        seed=recipe.seed,
        strict=strict,
        augment=recipe.augment,
    )
    left_out(place, images.skipped)
    return images


def _announced(task: str, images: "TaskData", order: orders.Order, frozen: "Backbone") -> str:
    counts = ", ".join(f"{n} {name}" for name, n in reports.sizes(images).items())
    many = f"{len(order.points)} points, " if len(order.points) > 1 else ""
    return (
        f"{task}: {len(images.classes)} classes, {counts}; {order.method} on "
        f"{frozen.spec.ref.name}, {many}{order.points[0].recipe.epochs} epochs"
    )


def _alone(
    wanted: Wanted,
    task: str,
    images: "Mapping[str, TaskData]",
    frozen: "Backbone",
    order: orders.Order,
    teller: Teller,
) -> reports.Ended:
    """One task: a campaign, or a run as it is."""
    from training.acts import Item, Job, finish
    from training.checkpoint import Checkpoint

    place = wanted.unfinished
    if not wanted.resume:
        cleared(place)
    elif not place.is_dir():
        teller.say(f"nothing to resume at {place}: starting afresh")
    hands = orders.handed(
        teller.watching,
        workers=wanted.workers,
        data_parallel=wanted.data_parallel,
        threads=wanted.threads,
        address=wanted.ray_address,
    )
    job = Job(data=images[task], backbone=frozen, task=task, method=order.method)
    ended = reports.Ended(
        task=task,
        order=order,
        file=wanted.output,
        report=wanted.report_of(task),
        images=images[task],
    )
    if order.campaign:
        return _campaigned(ended, job, hands, teller, place)
    checkpoint = Checkpoint(path=place / "run.checkpoint", resume=True)
    item = Item(name="", point=order.points[0], checkpoint=checkpoint)
    ((_, made),) = hands.each(finish, job, [item])
    return replace(ended, runs=(made,))


def _campaigned(
    ended: reports.Ended, job: Any, hands: "Hands", teller: Teller, place: Path
) -> reports.Ended:
    from training.campaign import Campaign
    from training.journal import Journal

    order = ended.order

    def on_trial(at: int, trial: "Trial") -> None:
        teller.say(f"point {at + 1}/{len(order.points)}: " + "  ".join(reports.trial_row(trial)))

    outcome = Campaign(
        job=job,
        points=order.points,
        seeds=order.seeds,
        hands=hands,
        journal=Journal(place),
        checkpoints=place,
        on_trial=on_trial,
    ).run()
    return replace(ended, runs=outcome.runs, trials=outcome.trials, protocol=outcome.protocol)


def _together(
    wanted: Wanted,
    images: "Mapping[str, TaskData]",
    frozen: "Backbone",
    order: orders.Order,
    teller: Teller,
) -> list[reports.Ended]:
    """Several tasks in the same batches."""
    from training.together import train_tasks

    point = order.points[0]
    found = train_tasks(
        images, frozen, order.method, point.options, point.recipe, watch=teller.watching
    )
    return [
        reports.Ended(
            task=task,
            order=order,
            file=wanted.output / f"{task}.safetensors",
            report=wanted.report_of(task),
            images=images[task],
            runs=(made,),
        )
        for task, made in found.items()
    ]


def _written(ended: reports.Ended) -> None:
    with whole(ended.file) as part:
        part.write_bytes(ended.made.data)


def _published(ended: reports.Ended, shelf: "AdapterStore | None") -> reports.Ended:
    if shelf is None:
        return ended
    published = shelf.publish(ended.made.data, ended.task, by=author(), why="rootstock train")
    return replace(ended, published=published)


def _shelf(uri: str | None, digest: str) -> "AdapterStore | None":
    """The store that will be published to, known to be writable."""
    if uri is None:
        return None
    from adapters_store.store import AdapterStore

    store = AdapterStore.open(uri, digest)
    store.check_writable()
    return store
