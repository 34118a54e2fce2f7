"""Why a peer cannot be measured, as data."""

from loadtest.errors import LoadtestError


class PeerError(LoadtestError):
    """One system, or what all need, cannot be had; `reason` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"
