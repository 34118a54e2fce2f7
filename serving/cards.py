"""What a door knows of adapters: asked of an engine once for each digest, and kept. No tensor.

It stands where an engine has its residency: following the log waits here for a release that is
about to answer, until an engine has loaded and verified it. A digest that an engine refused stays
refused here for a while: it is one engine's word, and another may serve it. One that could not be
had is asked for again.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Final

from adapters_store.errors import AdapterError
from serving.errors import QuarantinedError
from serving.shelf import Shelf
from serving.types import Card

CARDS_BYTES: Final = 256 * 2**20
_CARD_BYTES: Final = 1024  # without its labels
_LABEL_BYTES: Final = 64  # without its letters
_BELIEVED_S: Final = 30.0  # a refusal, before it is asked about again

Ask = Callable[[str], "Future[Card]"]  # of an engine, which loads and verifies what it is asked for


class Cards:
    """Cards by digest; threads may share it."""

    def __init__(
        self,
        ask: Ask,
        most_bytes: int = CARDS_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know nothing yet; the least recently used cards go where memory ends."""
        self._ask, self._clock = ask, clock
        self._lock = threading.Lock()
        self._held: Shelf[str, Card] = Shelf(most_bytes)
        self._asked: dict[str, Future[Card]] = {}
        self._refused: dict[str, tuple[AdapterError, float]] = {}  # until when it is believed

    def get(self, digest: str) -> "Future[Card]":
        """The card of a digest; the future is shared by all who wait for it.

        It raises:
            AdapterError: an engine refused it.
            StoreError, EngineLostError: not just now.
        """
        future: Future[Card] = Future()
        with self._lock:
            if card := self._held.find(digest):
                self._held.touch(digest)
                future.set_result(card)
                return future
            if error := self._refusal(digest):
                future.set_exception(error)
                return future
            if digest in self._asked:
                return self._asked[digest]
            future.set_running_or_notify_cancel()  # many may wait for it: nobody cancels it
            self._asked[digest] = future
        self._ask(digest).add_done_callback(partial(self._told, digest, future))
        return future

    def expect(self, digest: str) -> "Future[Card]":
        """The same, for one that is about to answer."""
        return self.get(digest)

    def prefetch(self, digests: Iterable[str]) -> None:
        """Engines bring in by themselves what they may be asked for; nothing is left to do here."""

    def forget(self, digests: Iterable[str]) -> None:
        """Ask again, should anybody want these."""
        with self._lock:
            for digest in digests:
                self._held.take(digest)
                self._refused.pop(digest, None)

    def keep(self, card: Card) -> None:
        """An engine has verified this one."""
        with self._lock:
            self._refused.pop(card.digest, None)
            self._held.take(card.digest)
            self._held.put(card.digest, card, _weight(card))

    def denied(self, digest: str, error: AdapterError) -> None:
        """An engine that was to compute with this one would not.

        A quarantine is believed as a refusal is: another engine may still serve the release, and
        which of them a group comes to nobody chooses. Of anything else an engine is asked again.
        """
        with self._lock:
            self._held.take(digest)
            self._refused.pop(digest, None)
            if isinstance(error, QuarantinedError):
                self._refused[digest] = error, self._clock() + _BELIEVED_S

    def refused(self, digest: str) -> bool:
        """Whether an engine refused this digest a short time ago."""
        return self._refusal(digest) is not None

    def refusals(self) -> frozenset[str]:
        """Digests of which the last that an engine said was a refusal, however long ago."""
        with self._lock:
            return frozenset(self._refused)

    def check(self) -> None:
        """Verify the bookkeeping.

        Raises:
            AssertionError: it is broken.
        """
        with self._lock:
            self._held.check()
            assert not set(self._held) & set(self._refused)

    def _refusal(self, digest: str) -> AdapterError | None:
        error, until = self._refused.get(digest, (None, 0.0))
        return error if self._clock() < until else None

    def _told(self, digest: str, future: "Future[Card]", answer: "Future[Card]") -> None:
        error = RuntimeError("nobody was asked") if answer.cancelled() else answer.exception()
        if error is None:
            self.keep(answer.result())
        with self._lock:
            del self._asked[digest]
            if isinstance(error, AdapterError):
                self._held.take(digest)
                self._refused[digest] = error, self._clock() + _BELIEVED_S
        if error is None:
            future.set_result(answer.result())
        else:
            future.set_exception(error)


def _weight(card: Card) -> int:
    """About how many bytes a card takes."""
    return _CARD_BYTES + sum(_LABEL_BYTES + 4 * len(label) for label in card.labels)
