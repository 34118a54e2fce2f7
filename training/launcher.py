"""Training outside this process: acts as Ray tasks, or by several processes. Its only Ray.

Ray reads its environment when it is imported, which happens here and nowhere earlier. A Ray of our
own stays on this machine's loopback, writes to a folder that goes with it, and ends when we do; but
while processes train together, PyTorch's rendezvous listens on all interfaces. A Ray that is there
already (`address`) is left as it is, and must have the same Rootstock on its nodes.
"""

import contextlib
import logging
import math
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from adapters_store.errors import RootstockError
from adapters_store.threads import OPENMP
from training.acts import Act, Item, Job
from training.data import TaskData
from training.errors import WorkersFailedError
from training.ranks import ALONE, Ranks
from training.watch import Epoch, Watch

ENVIRONMENT: Final[Mapping[str, str]] = {
    # A thread that spins at a barrier takes the core from whom it waits for.
    **OPENMP,
    # Nothing is sent to anybody.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's node address becomes 127.0.0.1: else its ports take orders from the whole network.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A new local cluster would write a token to ~/.ray.
    "RAY_AUTH_MODE": "disabled",
    # Other programs' memory is no reason to kill a run.
    "RAY_memory_monitor_refresh_ms": "0",
    # Gradients stay on this machine, too.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
_FOLDER_BYTES_MAX: Final = 30  # Ray's sockets lie in it, and their paths end at 107 bytes
_STORE_BYTES_MIN: Final = 256 * 2**20
_HEARD_EVERY_S: Final = 0.5
_STARTS: Final = 3  # of a Ray of our own, before it is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Ray's side of the work: hands for `training.acts`.

    Args of the constructor:
        workers: acts at a time, or, if `together`, processes that do each act.
        threads: of each process on CPUs; results are those of one process with as many.
        watching: is told of epochs, by the item's name.
        together: every act is done by all workers, each on its part of every batch.
        address: of a Ray that is there already; None starts one on this machine.
    """

    workers: int
    threads: int
    watching: Callable[[str], Watch]
    together: bool = False
    address: str | None = None

    def each(self, act: Act, job: Job, items: Sequence[Item]) -> Iterator[tuple[int, Any]]:
        """Outcomes as they come; Ray is there only meanwhile.

        Raises:
            WorkersFailedError: Ray does not come up, or a process was lost.
            TrainingError: what an act raised, as it raised it.
        """
        if not items:
            return
        if self.address is not None:  # checkpoints lie on a disk that its nodes may not see
            items = [replace(item, checkpoint=None) for item in items]
        with _ray(self, _bytes(job)), _translated(), self._heard(items) as (teller, pass_on):
            import ray  # noqa: PLC0415

            shared = ray.put(_plain(job))
            do = self._do_together if self.together else self._do_apart
            for outcome in do(act, shared, items, teller):
                pass_on()  # what led to an outcome is told before it
                yield outcome

    def _do_apart(
        self, act: Act, shared: Any, items: Sequence[Item], teller: Any
    ) -> Iterator[tuple[int, Any]]:
        import ray  # noqa: PLC0415

        task = ray.remote(_alone).options(
            num_cpus=self.threads, num_gpus=_share(self.workers, _gpus()), max_retries=1
        )
        waiting = list(enumerate(items))
        running: dict[Any, int] = {}  # what Ray has → its place
        while waiting or running:
            while waiting and len(running) < self.workers:
                at, item = waiting.pop(0)
                running[task.remote(act, shared, item, teller, at, self.threads)] = at
            done, _ = ray.wait(list(running))
            for ref in done:
                yield running.pop(ref), ray.get(ref)

    def _do_together(
        self, act: Act, shared: Any, items: Sequence[Item], teller: Any
    ) -> Iterator[tuple[int, Any]]:
        from ray.train import RunConfig, ScalingConfig  # noqa: PLC0415
        from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415

        gpus = _gpus()
        if 0 < gpus < self.workers:
            raise WorkersFailedError(f"{self.workers} processes want a GPU each, there are {gpus}")
        logging.getLogger("ray.train").setLevel(logging.WARNING)
        with tempfile.TemporaryDirectory(prefix="rs-train-") as storage:
            for at, item in enumerate(items):
                trainer = TorchTrainer(
                    _joined,
                    train_loop_config={
                        "act": act,
                        "job": shared,
                        "item": item,
                        "teller": teller,
                        "at": at,
                        "threads": self.threads,
                    },
                    torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
                    scaling_config=ScalingConfig(
                        num_workers=self.workers,
                        use_gpu=bool(gpus),
                        resources_per_worker={"CPU": self.threads},
                    ),
                    run_config=RunConfig(name=f"act-{at}", storage_path=storage),
                )
                yield at, trainer.fit().return_value

    @contextlib.contextmanager
    def _heard(self, items: Sequence[Item]) -> Iterator[tuple[Any, Callable[[], None]]]:
        """An actor to tell of epochs, and what passes on what it was told; a thread does, too."""
        import ray  # noqa: PLC0415

        teller = ray.remote(_Teller).options(num_cpus=0).remote()
        watches = [self.watching(item.name) for item in items]
        over = threading.Event()

        def pass_on() -> None:
            for at, row in ray.get(teller.heard.remote()):
                watches[at].on_epoch(row)

        def listen() -> None:
            while not over.wait(_HEARD_EVERY_S):
                with contextlib.suppress(Exception):  # the act's own error is the one to tell
                    pass_on()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield teller, pass_on
        finally:
            over.set()
            thread.join()


class _Teller:
    """Epochs on their way from where they were trained to whoever watches."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, Epoch]] = []

    def tell(self, at: int, row: Epoch) -> None:
        self._rows.append((at, row))

    def heard(self) -> list[tuple[int, Epoch]]:
        rows, self._rows = self._rows, []
        return rows


def _alone(act: Act, job: Job, item: Item, teller: Any, at: int, threads: int) -> Any:
    """An act in a process of its own."""
    with _settled(threads):
        return act(job, item, _watch(teller, at), ALONE)


def _joined(told: dict[str, Any]) -> Any:
    """An act in one of several processes, which `torch.distributed` has joined."""
    import ray  # noqa: PLC0415
    from ray.train.torch import get_device  # noqa: PLC0415

    if (device := get_device()).type == "cuda":
        torch.cuda.set_device(device)
    ranks = Ranks.joined()
    watch = _watch(told["teller"], told["at"]) if ranks.first else Watch()
    with _settled(told["threads"]):
        return told["act"](ray.get(told["job"]), told["item"], watch, ranks)


@contextlib.contextmanager
def _settled(threads: int) -> Iterator[None]:
    """As a process of the user's own would be: Ray sets one thread."""
    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        # Pixels are read where Ray keeps them for all; nobody writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        yield


def _watch(teller: Any, at: int) -> Watch:
    def tell(row: Epoch) -> None:
        teller.tell.remote(at, row)

    return Watch(on_epoch=tell)


@contextlib.contextmanager
def _ray(crew: Crew, size: int) -> Iterator[None]:
    """Ray while it is needed: a local one of our own, or the one at the address."""
    folder = None if crew.address else _folder()
    ours = dict(ENVIRONMENT) if crew.address is None else {}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        import ray  # noqa: PLC0415 (its environment stands now)

        where: dict[str, Any] = {"address": crew.address}
        if folder is not None:
            where = {
                "address": "local",
                "num_cpus": crew.workers * crew.threads,
                "include_dashboard": False,
                "object_store_memory": max(_STORE_BYTES_MIN, math.ceil(1.3 * size)),
                "_temp_dir": str(folder),
            }
        try:
            _start(where, 1 if crew.address else _STARTS)
            yield
        finally:
            ray.shutdown()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(where: Mapping[str, Any], times: int) -> None:
    """Ray gives its own processes 30 s, which a busy machine may not have the first time."""
    import ray  # noqa: PLC0415

    for left in reversed(range(times)):
        try:
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # noqa: BLE001 (a start that is too slow has no class)
            ray.shutdown()
            if not left:
                raise WorkersFailedError(_line(error)) from None
        else:
            return


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Errors of acts as they were raised; all others of Ray as one of ours."""
    from ray.exceptions import RayError  # noqa: PLC0415

    try:
        yield
    except RayError as error:
        raise _ours(error) from None
    except RuntimeError as error:  # of Ray Train: a worker's, or the group's
        if not hasattr(error, "worker_failures") and "ray" not in type(error).__module__:
            raise
        raise _ours(error) from None


def _ours(error: BaseException) -> RootstockError:
    """The error of ours inside one of Ray's, or what Ray's says."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, RootstockError) and not hasattr(inner, "cause"):
            return inner
        failures = getattr(inner, "worker_failures", None)
        if failures:
            return _ours(failures[min(failures)])
        cause = getattr(inner, "cause", None)
        inner = cause if isinstance(cause, BaseException) else None
    return WorkersFailedError(_line(error))


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def _folder() -> Path:
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _FOLDER_BYTES_MAX - len("/rs-12345678"):
        parent = "/tmp"  # noqa: S108 (mkdtemp makes a folder of our own in it)
    return Path(tempfile.mkdtemp(prefix="rs-", dir=parent))


def _gpus() -> int:
    import ray  # noqa: PLC0415

    return int(ray.cluster_resources().get("GPU", 0))


def _share(workers: int, gpus: int) -> float:
    """Of a GPU, for each of so many workers at a time."""
    return 1 / math.ceil(workers / gpus) if gpus else 0


def _bytes(job: Job) -> int:
    pixels = sum(
        part.nbytes
        for split in job.data.splits.values()
        for part in (split.images, split.wide)
        if part is not None
    )
    weights = sum(p.nbytes for p in job.backbone.net.parameters())
    return int(pixels + 2 * weights)


def _plain(job: Job) -> Job:
    """The job with plain arrays, which processes share; those in files (`spill`) go along."""

    def array(pixels: Any) -> Any:
        return None if pixels is None else np.asarray(pixels)

    splits = {
        name: replace(split, images=array(split.images), wide=array(split.wide))
        for name, split in job.data.splits.items()
    }
    data: TaskData = replace(job.data, splits=splits)
    return replace(job, data=data)
