"""The flags of `rootstock train` as one value, and which of them go together. Knows no training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock.console import fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A command line."""

    data: Path
    output: Path
    task: str | None
    tasks: str | None  # names between commas
    method: str
    backbone: str
    weights: Path | None
    layout: str | None
    strict: bool
    settings: Mapping[str, Any]
    sweep: Sequence[str]
    seeds: int | None
    store: str | None
    threads: int
    workers: int
    data_parallel: int
    ray_address: str | None
    resume: bool
    report: Path | None
    no_report: bool
    begun: float  # of `time.time`

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks."""
        if self.task is not None:
            return (self.task,)
        return tuple(name.strip() for name in (self.tasks or "").split(","))

    @property
    def unfinished(self) -> Path:
        """Where a run is kept until its file is written."""
        return self.output.with_name(f"{self.output.name}.unfinished").absolute()

    def report_of(self, task: str) -> Path | None:
        """The folder of a task's report; None where none is wanted."""
        if self.no_report:
            return None
        if self.tasks is not None:
            return (self.report or self.output) / f"{task}.report"
        name = self.output.name.removesuffix(".safetensors")
        return self.report or self.output.parent / f"{name}.report"

    def refuse_mixtures(self) -> None:
        """End the command where flags do not go together."""
        many, full = self.tasks is not None, self.method == "full"
        elsewhere = self.workers > 1 or self.data_parallel > 1 or self.ray_address is not None
        runs = 2 if self.sweep else self.seeds or 1
        faults = (
            ((self.task is None) != many, "name the task with --task, or several with --tasks"),
            (many and self.sweep, "--tasks trains with given settings, without --sweep"),
            (many and self.seeds, "--tasks trains each task once, without --seeds"),
            (many and elsewhere, "--tasks trains in one process, without --workers and the like"),
            (many and self.resume, "--tasks keeps no checkpoint, so there is nothing to --resume"),
            (many and full, "--tasks shares a frozen backbone, and --method full freezes nothing"),
            (many and self.layout, "--layout names the lists of one task, so not with --tasks"),
            (
                (many and len(set(self.names)) < len(self.names)) or not all(self.names),
                f"--tasks wants different names between commas, not {self.tasks!r}",
            ),
            (full and self.store, "--method full makes a whole model; adapters are published"),
            (
                self.workers > 1 and self.data_parallel > 1,
                "--workers and --data-parallel are two ways, choose one",
            ),
            (
                self.workers > 1 and runs == 1,
                (
                    "--workers shares out what --sweep and --seeds ask for; "
                    "one run alone can be shared by --data-parallel"
                ),
            ),
            (self.report and self.no_report, "--report and --no-report contradict each other"),
            (
                self.report and self.report.exists() and not self.report.is_dir(),
                f"{self.report} is a file, --report names a folder",
            ),
            (
                not many and self.output.is_dir(),
                f"{self.output} is a folder, --out names a file",
            ),
            (
                many and self.output.exists() and not self.output.is_dir(),
                f"{self.output} is a file, with --tasks --out names a folder",
            ),
        )
        for wrong, message in faults:
            if wrong:
                fail(message)
        for report in map(self.report_of, self.names):
            if report is not None and report.exists() and not report.is_dir():
                fail(f"{report} is a file, and the folder of the report is to be there")


def cleared(folder: Path) -> None:
    """Remove what unfinished runs keep there, and the folder if nothing else is in it."""
    if not folder.is_dir():
        return
    for pattern in ("*.checkpoint", "done-*", ".*.part"):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
