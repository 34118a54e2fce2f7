"""Every error of the store's side. Knows no HTTP status, no tensor and no file.

A class per decision a caller can take. Values go positionally to `super().__init__` and the text
is made in `__str__`: that is the shape that survives pickling across Ray actors.

    RootstockError
    ├── AdapterError
    │   ├── ArtifactInvalidError(name, faults)      the bytes are no valid adapter
    │   ├── BackboneMismatchError(name, has, wants) made for other weights or another input size
    │   ├── TaskMismatchError(named, asked)         the manifest names another task
    │   ├── MismatchError(name, faults)             several of these, or shapes that do not fit
    │   ├── LawBrokenError(method, largest, bound)  merged and unmerged answers differ
    │   ├── EffectFailedError(name, faults)         golden images do not give the recorded logits
    │   └── MethodUnknownError(method, known)
    ├── ImageInvalidError(reason)                   undecodable, refused or too large a picture
    ├── BackboneUnavailableError(name, reason)      no weights, or none that fit
    ├── CatalogError
    │   ├── TaskNotFoundError(task)
    │   ├── ReleaseNotFoundError(task, release)
    │   ├── NameInvalidError(name, rule)
    │   ├── PreconditionFailedError(task, wanted, found)
    │   ├── ReleaseInUseError(task, release, uses)  something still points at it
    │   └── SplitInvalidError(task, reason)         no such division of traffic
    └── StoreError
        ├── StoreUnavailableError(uri, reason)      cannot be reached just now
        ├── StoreUnsupportedError(uri, reason)      does not honour put-if-absent
        ├── StoreCorruptError(path, reason)         bytes there contradict their name
        └── EventUnknownError(generation, reason)   the log goes on, but this version cannot read it
"""


class RootstockError(Exception):
    """The root: catching it catches every error that Rootstock raises on purpose."""


class AdapterError(RootstockError):
    """Something about one adapter."""


class ArtifactInvalidError(AdapterError):
    """The bytes are no valid adapter; `faults` lists everything that was found wrong."""

    def __init__(self, name: str, faults: tuple[str, ...]) -> None:
        super().__init__(name, faults)
        self.name, self.faults = name, faults

    def __str__(self) -> str:
        return f"{self.name} is not a valid adapter: " + "; ".join(self.faults)


class BackboneMismatchError(AdapterError):
    """The adapter was made for another backbone (weights digest or input size)."""

    def __init__(self, name: str, has: str, wants: str) -> None:
        super().__init__(name, has, wants)
        self.name, self.has, self.wants = name, has, wants

    def __str__(self) -> str:
        return f"{self.name} was made for {self.wants}; this is {self.has}"


class TaskMismatchError(AdapterError):
    """The manifest names another task than the one that was asked for."""

    def __init__(self, named: str, asked: str) -> None:
        super().__init__(named, asked)
        self.named, self.asked = named, asked

    def __str__(self) -> str:
        return f"the artifact's manifest names task {self.named!r}, not {self.asked!r}"


class MismatchError(AdapterError):
    """A sound adapter that does not belong here; `faults` lists every reason."""

    def __init__(self, name: str, faults: tuple[str, ...]) -> None:
        super().__init__(name, faults)
        self.name, self.faults = name, faults

    def __str__(self) -> str:
        return f"{self.name} does not belong here: " + "; ".join(self.faults)


class LawBrokenError(AdapterError):
    """Training module, normal form and merged weights do not give the same answer."""

    def __init__(self, method: str, largest: float, bound: float) -> None:
        super().__init__(method, largest, bound)
        self.method, self.largest, self.bound = method, largest, bound

    def __str__(self) -> str:
        return (
            f"method {self.method!r}: the three paths differ by {self.largest:.3g} relative, "
            f"more than {self.bound:g}"
        )


class EffectFailedError(AdapterError):
    """The golden images do not give what the manifest recorded."""

    def __init__(self, name: str, faults: tuple[str, ...]) -> None:
        super().__init__(name, faults)
        self.name, self.faults = name, faults

    def __str__(self) -> str:
        return f"{self.name} fails its effect check: " + "; ".join(self.faults)


class MethodUnknownError(AdapterError):
    """No such method, or it does not fit this backbone."""

    def __init__(self, method: str, known: tuple[str, ...]) -> None:
        super().__init__(method, known)
        self.method, self.known = method, known

    def __str__(self) -> str:
        return f"unknown method {self.method!r}; known: {', '.join(self.known)}"


class PeftRefusedError(AdapterError):
    """A PEFT adapter that no artifact can say, or the reverse; `faults` lists every reason."""

    def __init__(self, name: str, faults: tuple[str, ...]) -> None:
        super().__init__(name, faults)
        self.name, self.faults = name, faults

    def __str__(self) -> str:
        return f"{self.name} has no counterpart: " + "; ".join(self.faults)


class ImageInvalidError(RootstockError):
    """The bytes are no picture that is answered; `reason` is fit to be shown to the sender."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class BackboneUnavailableError(RootstockError):
    """The backbone's weights cannot be had, or do not fit the network."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"backbone {self.name!r}: {self.reason}"


class CatalogError(RootstockError):
    """The catalog does not allow, or does not know, what was asked."""


class TaskNotFoundError(CatalogError):
    """No such task, or it is retired."""

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.task = task

    def __str__(self) -> str:
        return f"no task {self.task[:80]!r}"


class ReleaseNotFoundError(CatalogError):
    """The task exists, the release or alias does not (any more)."""

    def __init__(self, task: str, release: str) -> None:
        super().__init__(task, release)
        self.task, self.release = task, release

    def __str__(self) -> str:
        return f"task {self.task[:80]!r} has no release {self.release[:80]!r}"


class NameInvalidError(CatalogError):
    """A task or alias name breaks the rule for names."""

    def __init__(self, name: str, rule: str) -> None:
        super().__init__(name, rule)
        self.name, self.rule = name, rule

    def __str__(self) -> str:
        return f"{self.name[:80]!a} is not a valid name; it must match {self.rule}"


class PreconditionFailedError(CatalogError):
    """Somebody else changed the task since the caller looked (`If-Match`)."""

    def __init__(self, task: str, wanted: int, found: int) -> None:
        super().__init__(task, wanted, found)
        self.task, self.wanted, self.found = task, wanted, found

    def __str__(self) -> str:
        return f"task {self.task!r} is at generation {self.found}, not {self.wanted}"


class ReleaseInUseError(CatalogError):
    """The release is active, aliased or in a split, so it cannot be retired on its own."""

    def __init__(self, task: str, release: int, uses: tuple[str, ...]) -> None:
        super().__init__(task, release, uses)
        self.task, self.release, self.uses = task, release, uses

    def __str__(self) -> str:
        uses = ", ".join(self.uses)
        return f"release {self.release} of task {self.task!r} is in use ({uses}); move that first"


class SplitInvalidError(CatalogError):
    """The weights are no division of traffic."""

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(task, reason)
        self.task, self.reason = task, reason

    def __str__(self) -> str:
        return f"task {self.task!r} cannot be split: {self.reason}"


class StoreError(RootstockError):
    """Something about the object store."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached, or refused the operation, just now."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri, self.reason = uri, reason

    def __str__(self) -> str:
        return f"store {self.uri}: {self.reason}"


class StoreFullError(StoreUnavailableError):
    """It has no room for another object."""


class StoreUnsupportedError(StoreError):
    """The store does not honour put-if-absent, so writing to it could lose releases."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri, self.reason = uri, reason

    def __str__(self) -> str:
        return f"store {self.uri} cannot be written: {self.reason}"


class StoreCorruptError(StoreError):
    """Bytes in the store contradict their name."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class EventUnknownError(StoreError):
    """A log entry of a newer format, of an unknown kind, or unreadable: reading stops before it."""

    def __init__(self, generation: int, reason: str) -> None:
        super().__init__(generation, reason)
        self.generation, self.reason = generation, reason

    def __str__(self) -> str:
        return f"log entry {self.generation} cannot be read by this version: {self.reason}"
