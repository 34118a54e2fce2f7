"""What is known of each adapter in host memory, and of those that are not there. Pure bookkeeping.

Knows no thread, no clock and no store: whoever keeps these books guards them with a lock and says
what time it is.

Invariant: an adapter in host memory has passed its check or has it before it, never both; none of
them is one that was refused, and none is still wished for. What is quarantined is refused, and is
at nobody's hand. `check()` verifies it.
"""

from collections.abc import Container, Iterable
from typing import Final
from weakref import WeakValueDictionary

from adapters_store.effect import Promise
from adapters_store.errors import AdapterError, StoreError
from serving.errors import QuarantinedError
from serving.loading import Facts
from serving.shelf import Shelf

TRIES: Final = 3  # to bring an adapter in unasked


class Books:
    """Host memory of one replica."""

    def __init__(self, host_bytes: int) -> None:
        self.host: Shelf[str, Facts] = Shelf(host_bytes)
        self.unproven: dict[str, Promise] = {}  # of those in host memory, whose check is to come
        self._proven: set[str] = set()  # passed their check here, wherever they are now
        self._alive: WeakValueDictionary[str, Facts] = WeakValueDictionary()  # and somewhere held
        self._failed: dict[str, AdapterError] = {}
        self._put_off: dict[str, tuple[float, StoreError]] = {}
        self._wished: dict[str, int] = {}  # to be brought in; how often that failed already

    def at_hand(self, digest: str) -> Facts | None:
        """What may answer and is in memory, whoever keeps it there."""
        held = None if digest in self.unproven else self.host.find(digest)
        return held or self._alive.get(digest)

    def in_use(self, facts: Facts) -> int:
        """Count an adapter at hand as just used; how many others had to leave for it."""
        if facts.digest in self.host:
            self.host.touch(facts.digest)
            return 0
        self._proven.add(facts.digest)  # it was pushed out or forgotten, and is wanted after all
        return self._keep(facts)

    def has_passed(self, digest: str) -> bool:
        """Whether these bytes need no check any more."""
        return digest in self._proven

    def refusal(self, digest: str, now: float) -> AdapterError | StoreError | None:
        """Why a load of this digest need not be begun."""
        until, error = self._put_off.get(digest, (0.0, None))
        return self._failed.get(digest) or (error if now < until else None)

    @property
    def failed(self) -> frozenset[str]:
        """Digests that are known never to be served here."""
        return frozenset(self._failed)

    def has_failed(self, digest: str) -> bool:
        """Whether these bytes are known never to be served here."""
        return digest in self._failed

    def failure(self, digest: str) -> AdapterError | None:
        """Why these bytes will never be served here; None: they may be."""
        return self._failed.get(digest)

    def quarantine(self, digest: str, error: QuarantinedError) -> None:
        """Note that an adapter which passed answered wrongly: for good, and whoever holds it."""
        self.forget(digest)
        self._alive.pop(digest, None)
        self._failed[digest] = error

    def quarantined(self, digest: str) -> QuarantinedError | None:
        """Why this digest is quarantined; None: it is not."""
        error = self._failed.get(digest)
        return error if isinstance(error, QuarantinedError) else None

    def quarantines(self) -> list[QuarantinedError]:
        """Of everything that is quarantined."""
        return [e for e in self._failed.values() if isinstance(e, QuarantinedError)]

    def set_aside(self, facts: Facts, promise: Promise) -> bool:
        """Keep what nobody asked for yet, if there is room; False: there is none."""
        nbytes = facts.prepared.nbytes
        if not self.host.has_room(nbytes):
            self._wished.clear()
            return False
        digest = facts.digest
        self._wished.pop(digest, None)
        if known := self._alive.get(digest):  # somebody holds one that passed
            facts = known
            self._proven.add(digest)
        self.host.put(digest, facts, nbytes)
        if digest in self._proven:
            self._alive[digest] = facts
        else:
            self.unproven[digest] = promise
        return True

    def passed(self, facts: Facts, *, keep: bool) -> int:
        """Note a passed check; how many others had to leave for it."""
        digest = facts.digest
        self._wished.pop(digest, None)
        self.unproven.pop(digest, None)
        self._failed.pop(digest, None)
        self._put_off.pop(digest, None)
        self._alive[digest] = facts
        if keep:
            self._proven.add(digest)
            return self._keep(facts)
        self.forget(digest)
        return 0

    def refused(self, digest: str, error: AdapterError, *, remember: bool) -> None:
        """Note that these bytes will never be served here; what is quarantined stays so."""
        self.forget(digest)
        if remember and self.quarantined(digest) is None:
            self._failed[digest] = error

    def unreachable(self, digest: str, error: StoreError, until: float) -> None:
        """Note that a digest should not be asked for again before then."""
        self._put_off[digest] = (until, error)

    def forget(self, digest: str) -> None:
        """Let an adapter go."""
        self._wished.pop(digest, None)
        self._proven.discard(digest)
        self.unproven.pop(digest, None)
        self.host.take(digest)

    def wish(self, digests: Iterable[str], tries: int = 0) -> None:
        """Have adapters brought in, unless that was tried too often or is of no use."""
        for digest in digests:
            useless = digest in self.host or digest in self._failed or tries >= TRIES
            if not useless:
                self._wished.setdefault(digest, tries)

    def unwish(self, digest: str) -> None:
        """Somebody brings it in just now."""
        self._wished.pop(digest, None)

    def wished(self) -> tuple[str, int] | None:
        """The next to be brought in, and how often that failed; it is off the list then."""
        digest = next(iter(self._wished), None)
        return None if digest is None else (digest, self._wished.pop(digest))

    def unchecked(self, besides: Container[str]) -> str | None:
        """The next in host memory whose check is to come."""
        return next((digest for digest in self.unproven if digest not in besides), None)

    def check(self) -> None:
        """Verify the invariant.

        Raises:
            AssertionError: it is broken.
        """
        self.host.check()
        held, unproven = set(self.host), set(self.unproven)
        assert unproven <= held
        assert not unproven & self._proven
        assert held <= unproven | self._proven
        assert not held & set(self._failed)
        assert not held & set(self._wished)
        assert not set(self._alive) & unproven
        assert not any(self.quarantined(digest) for digest in self._alive)
        for digest in held:
            facts = self.host.find(digest)
            assert facts is not None
            assert facts.digest == digest

    def _keep(self, facts: Facts) -> int:
        if facts.digest in self.host:
            return 0
        gone = self.host.put(facts.digest, facts, facts.prepared.nbytes)
        for digest in gone:
            self.unproven.pop(digest, None)
        return len(gone)
