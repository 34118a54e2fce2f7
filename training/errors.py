"""What training may refuse, a class per thing the user can change. Knows no folder and no tensor.

TrainingError
├── DataInvalidError(place, faults)               the images cannot be trained or measured on
├── RecipeInvalidError(faults)                    a setting is malformed or out of range
├── SettingUnknownError(key, method, known)       neither the method nor the recipe has it
├── DivergedError(method, epoch, task)            the loss or a factor is no longer a number
├── MemoryExhaustedError(device, batch)           a step does not fit
├── CheckpointInvalidError(place, faults)         no run can go on from it, or another run's
├── LayoutUnknownError(layout, known)             no preset is for it
├── PixelsTooManyError(size, folder, reason)      decoded images fit nowhere
├── ScoresIncompleteError(missing, unknown)       an average of tasks some of which are missing
└── WorkersFailedError(reason)                    Ray did not come up, or lost a process
"""

from adapters_store.errors import RootstockError


class TrainingError(RootstockError):
    """Something about one training run."""


class DataInvalidError(TrainingError):
    """The images cannot be trained or measured on; `faults` lists everything found wrong."""

    def __init__(self, place: str, faults: tuple[str, ...]) -> None:
        super().__init__(place, faults)
        self.place, self.faults = place, faults

    def __str__(self) -> str:
        return f"{self.place}: " + "; ".join(self.faults)


class RecipeInvalidError(TrainingError):
    """One or more settings are malformed, out of range, or given twice."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        return "these settings do not hold: " + "; ".join(self.faults)


class SettingUnknownError(TrainingError):
    """A setting that neither the method nor the recipe has."""

    def __init__(self, key: str, method: str, known: tuple[str, ...]) -> None:
        super().__init__(key, method, known)
        self.key, self.method, self.known = key, method, known

    def __str__(self) -> str:
        return f"no setting {self.key!r} for method {self.method!r}; there are: " + ", ".join(
            self.known
        )


class DivergedError(TrainingError):
    """The loss, or a trained number, is NaN or infinite; `task` tells which of several it was."""

    def __init__(self, method: str, epoch: int, task: str | None = None) -> None:
        super().__init__(method, epoch, task)
        self.method, self.epoch, self.task = method, epoch, task

    def __str__(self) -> str:
        which = "" if self.task is None else f" on task {self.task!r}"
        return (
            f"training of method {self.method!r}{which} diverged in epoch {self.epoch}: "
            "try a smaller lr, or a smaller scale"
        )


class MemoryExhaustedError(TrainingError):
    """The device, or the machine, has no room for a step of this run."""

    def __init__(self, device: str, batch: int) -> None:
        super().__init__(device, batch)
        self.device, self.batch = device, batch

    def __str__(self) -> str:
        return (
            f"{self.device} has not enough memory for steps of {self.batch} images: lower the "
            "batch, set recompute=true, or precision=bf16 if that is not set"
        )


class CheckpointInvalidError(TrainingError):
    """The file is damaged, or what another run left behind."""

    def __init__(self, place: str, faults: tuple[str, ...]) -> None:
        super().__init__(place, faults)
        self.place, self.faults = place, faults

    def __str__(self) -> str:
        return (
            f"no run can go on from {self.place}: " + "; ".join(self.faults) + ". "
            "Remove it, or train without resuming"
        )


class LayoutUnknownError(TrainingError):
    """A layout of data that no preset is for."""

    def __init__(self, layout: str, known: tuple[str, ...]) -> None:
        super().__init__(layout, known)
        self.layout, self.known = layout, known

    def __str__(self) -> str:
        return f"no layout {self.layout!r}; there are: " + ", ".join(self.known)


class PixelsTooManyError(TrainingError):
    """Decoded images take more bytes than there is room for."""

    def __init__(self, size: int, folder: str, reason: str) -> None:
        super().__init__(size, folder, reason)
        self.size, self.folder, self.reason = size, folder, reason

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return (
            f"the decoded images take {self.size / 2**30:.1f} GiB, for which there is no room in "
            f"{self.folder}{why}: TMPDIR names another folder"
        )


class ScoresIncompleteError(TrainingError):
    """An average is asked for that some of its tasks are missing from."""

    def __init__(self, missing: tuple[str, ...], unknown: tuple[str, ...]) -> None:
        super().__init__(missing, unknown)
        self.missing, self.unknown = missing, unknown

    def __str__(self) -> str:
        faults = [f"no score for {', '.join(self.missing)}"] if self.missing else []
        faults += [f"no task {', '.join(self.unknown)}"] if self.unknown else []
        return "averages over VTAB-1k want its 19 tasks: " + "; ".join(faults)


class WorkersFailedError(TrainingError):
    """Ray did not come up, or a process of it was lost; `reason` is what it says."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"training in other processes failed: {self.reason}"
