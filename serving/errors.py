"""What serving may refuse, one class per answer a caller can give. Knows no HTTP status.

ServingError
├── RequestInvalidError(reason)             malformed in itself
├── MediaUnsupportedError(given, known)     a content type that is not read
├── TooLargeError(limit_bytes)              more bytes than are read
├── UnauthorizedError() / ForbiddenError(reason)
├── OverloadedError(reason, retry_after_s)  refused before compute; try again
├── TaskBusyError(task, retry_after_s)      the same, because this one task asks for so much
├── DeadlineError(budget_s)                 could not be answered in time
├── ReleaseFailedError(task, release)       its active release does not pass, and there is no older
├── BehindError(wanted, applied)            this replica has not applied that generation yet
├── ColdError()                             for the door alone: ask again, apart from others
├── EngineLostError(reason)                 no engine could be reached, or it died over this
└── ClosingError()                          shutting down

AdapterError
└── QuarantinedError(task, release, faults) served until it was found to answer wrongly
"""

from typing import ClassVar, Final

from adapters_store.errors import AdapterError, RootstockError

LASTING_S: Final = 30  # to try again after: only another release, or another process, heals it


class ServingError(RootstockError):
    """Something about one request."""


class RequestInvalidError(ServingError):
    """The request is malformed in itself; sending it again will not help."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class MediaUnsupportedError(ServingError):
    """The content type is none that is read here."""

    def __init__(self, given: str, known: tuple[str, ...]) -> None:
        super().__init__(given, known)
        self.given, self.known = given, known

    def __str__(self) -> str:
        return f"content type {self.given[:80]!r} is not read here; send {', '.join(self.known)}"


class TooLargeError(ServingError):
    """The body has more bytes than are read."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return f"the body is larger than {self.limit_bytes} bytes"


class UnauthorizedError(ServingError):
    """A token is needed, and none that is known came with the request."""

    def __str__(self) -> str:
        return "a valid bearer token is needed"


class ForbiddenError(ServingError):
    """The caller is known, or need not be, and still may not do this."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class OverloadedError(ServingError):
    """Refused before compute because too much waits already."""

    def __init__(self, reason: str, retry_after_s: int) -> None:
        super().__init__(reason, retry_after_s)
        self.reason, self.retry_after_s = reason, retry_after_s

    def __str__(self) -> str:
        return self.reason


class TaskBusyError(ServingError):
    """Refused before compute: this task has more than its share of what is inside already."""

    def __init__(self, task: str, retry_after_s: int) -> None:
        super().__init__(task, retry_after_s)
        self.task, self.retry_after_s = task, retry_after_s

    def __str__(self) -> str:
        return f"more calls for {self.task!r} are inside than its share"


class DeadlineError(ServingError):
    """The sample could not be, or was not, answered within its time."""

    def __init__(self, budget_s: float) -> None:
        super().__init__(budget_s)
        self.budget_s = budget_s

    def __str__(self) -> str:
        return f"no answer was possible within {self.budget_s:.3g} s"


class ReleaseFailedError(ServingError):
    """The release cannot be served here, and no earlier one was verified."""

    retry_after_s: ClassVar[int] = LASTING_S

    def __init__(self, task: str, release: int) -> None:
        super().__init__(task, release)
        self.task, self.release = task, release

    def __str__(self) -> str:
        return f"release {self.task}@{self.release} does not pass its checks on this replica"


class BehindError(ServingError):
    """This replica has not applied the generation that the caller asks for."""

    def __init__(self, wanted: int, applied: int) -> None:
        super().__init__(wanted, applied)
        self.wanted, self.applied = wanted, applied

    def __str__(self) -> str:
        return f"generation {self.wanted} is wanted, this replica has applied {self.applied}"


class ColdError(ServingError):
    """An engine has yet to load this sample's adapter, and answers its neighbours meanwhile."""

    def __str__(self) -> str:
        return "the adapter is being loaded"


class EngineLostError(ServingError):
    """No engine could be reached, or the one that was did not live to answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class ClosingError(ServingError):
    """The replica is shutting down."""

    def __str__(self) -> str:
        return "this replica is shutting down"


class QuarantinedError(AdapterError):
    """This process served the release until one of its answers was found to be wrong."""

    retry_after_s: ClassVar[int] = LASTING_S

    def __init__(self, task: str, release: int, faults: tuple[str, ...]) -> None:
        super().__init__(task, release, faults)
        self.task, self.release, self.faults = task, release, faults

    def __str__(self) -> str:
        return f"{self.task}@{self.release} is quarantined here: " + "; ".join(self.faults)
