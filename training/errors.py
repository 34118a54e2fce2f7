"""What training may refuse, a class per thing the user can change. Knows no folder and no tensor.

TrainingError
├── DataInvalidError(place, faults)               the images cannot be trained or measured on
├── RecipeInvalidError(faults)                    a setting is malformed or out of range
├── SettingUnknownError(key, method, known)       neither the method nor the recipe has it
└── DivergedError(method, epoch)                  the loss or a factor is no longer a number
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
    """The loss, or a trained number, is NaN or infinite."""

    def __init__(self, method: str, epoch: int) -> None:
        super().__init__(method, epoch)
        self.method, self.epoch = method, epoch

    def __str__(self) -> str:
        return (
            f"training of method {self.method!r} diverged in epoch {self.epoch}: "
            "try a smaller lr, or a smaller scale"
        )
