"""What can go wrong before a load begins, as data. Knows nothing of answers: those are counted."""


class LoadtestError(Exception):
    """Anything that is refused on purpose."""


class ScenarioError(LoadtestError):
    """A scenario that cannot be run; `faults` has all that is wrong with it."""

    def __init__(self, name: str, faults: tuple[str, ...]) -> None:
        super().__init__(name, faults)
        self.name, self.faults = name, faults

    def __str__(self) -> str:
        return f"{self.name}: {'; '.join(self.faults)}"


class TargetError(LoadtestError):
    """The server does not give what has to be known before the load begins."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}"


class WorkerError(LoadtestError):
    """A client process ended without its hits."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, reason)
        self.number, self.reason = number, reason

    def __str__(self) -> str:
        return f"client process {self.number} failed: {self.reason}"


class HitsError(LoadtestError):
    """A file that holds no hits, or of a format that this version cannot read."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"
