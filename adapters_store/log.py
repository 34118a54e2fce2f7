"""The log: numbered events, one object each. Knows no precondition, no blob and no method.

The number of an event is its generation. The log ends at the first number that is absent; a writer
appends by creating exactly that one, which only one writer can.
"""

import logging
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from adapters_store.catalog import Catalog, fold_all
from adapters_store.errors import (
    EventUnknownError,
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
)
from adapters_store.events import Event, event_to_json, parse_event
from adapters_store.objects import Objects
from adapters_store.snapshot import catalog_from_json, catalog_to_json

SNAPSHOT_EVERY: Final = 256  # events
READERS: Final = 32  # threads
_WINDOW_MOST: Final = 512  # entries asked for at once
_TRIES: Final = 3  # of one append that neither succeeds nor fails
_EVENT_BYTES: Final = 2**20
_SNAPSHOT_BYTES: Final = 2**30
_NAME: Final = re.compile(r"([0-9]{20})\.json")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp:
    """How far a reader came, and what stopped it if it was not the end of the log."""

    catalog: Catalog
    blocked: EventUnknownError | None = None


class Log:
    """The log and the snapshots of one backbone."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def begun(self) -> bool:
        """Whether there is an event at all."""
        return self._objects.stat(f"log/{1:020d}.json") is not None

    def catch_up(self, catalog: Catalog) -> CatchUp:
        """Fold forward from `catalog` to the end of the log: one GET when nothing is new.

        Raises:
            StoreUnavailableError
        """
        if catalog.generation == 0:
            catalog = self._newest_snapshot()
        events, blocked = self.read(catalog.generation)
        return CatchUp(catalog=fold_all(catalog, events) if events else catalog, blocked=blocked)

    def read(self, after: int) -> tuple[list[Event], EventUnknownError | None]:
        """The events behind generation `after`, up to the end or to one that cannot be read."""
        events: list[Event] = []
        try:
            first = self._entry(after + 1)
            if first is None:
                return events, None
            events.append(parse_event(first, after + 1))
            window = 4
            with ThreadPoolExecutor(READERS) as pool:
                while True:
                    start = after + len(events) + 1
                    numbers = range(start, start + window)
                    for number, data in zip(numbers, pool.map(self._entry, numbers), strict=True):
                        if data is None:
                            return events, None
                        events.append(parse_event(data, number))
                    window = min(2 * window, _WINDOW_MOST)
        except EventUnknownError as blocked:
            return events, blocked

    def append(self, event: Event) -> bool:
        """Write the event under its generation; False: another event has that number.

        An answer that says neither (a time-out, a dropped connection) is settled by reading the
        entry: the id inside is unique, so equal bytes are ours. Trying the same number again is
        safe for the same reason, even if the first try arrives late.

        Raises:
            StoreUnavailableError: the store would not say; the event may yet appear.
        """
        path, data = f"log/{event.generation:020d}.json", event_to_json(event)
        failure = StoreUnavailableError(self._objects.uri, f"{path}: refused, yet absent")
        for attempt in range(_TRIES):
            back_off(attempt)
            try:
                if self._objects.put_new(path, data):
                    return True
            except StoreUnavailableError as error:
                failure = error
            found = self._entry(event.generation)
            if found is not None:
                return found == data
        raise failure

    def keep_snapshot(self, catalog: Catalog) -> None:
        """Write the snapshot if one is due at this generation; failing costs readers only time."""
        if catalog.generation % SNAPSHOT_EVERY == 0:
            try:
                self._objects.put_new(
                    f"snapshots/{catalog.generation:020d}.json", catalog_to_json(catalog)
                )
            except StoreError as error:
                _logger.warning("snapshot not written", extra={"reason": str(error)})

    def snapshot(self, generation: int) -> Catalog | None:
        """The catalog as a snapshot has it; None if there is none.

        Raises:
            StoreCorruptError: it is broken or another generation's.
        """
        path = f"snapshots/{generation:020d}.json"
        data = self._objects.get(path, _SNAPSHOT_BYTES)
        if data is None:
            return None
        catalog = catalog_from_json(data)
        if catalog.generation != generation:
            raise StoreCorruptError(path, f"it holds generation {catalog.generation}")
        return catalog

    def numbers(self, folder: str) -> tuple[list[int], list[str]]:
        """The generations that `log` or `snapshots` holds, ascending; and names that are none."""
        numbers, strange = [], []
        for stat in self._objects.under(folder):
            name = _NAME.fullmatch(stat.path.removeprefix(f"{folder}/"))
            if name:
                numbers.append(int(name[1]))
            else:
                strange.append(stat.path)
        return numbers, strange

    def _newest_snapshot(self) -> Catalog:
        for generation in reversed(self.numbers("snapshots")[0]):
            try:
                catalog = self.snapshot(generation)
            except StoreCorruptError as error:
                _logger.warning(
                    "snapshot ignored", extra={"generation": generation, "reason": str(error)}
                )
                continue
            if catalog is not None:
                return catalog
        return Catalog()

    def _entry(self, generation: int) -> bytes | None:
        try:
            return self._objects.get(f"log/{generation:020d}.json", _EVENT_BYTES)
        except StoreCorruptError as error:
            raise EventUnknownError(generation, error.reason) from None


def back_off(attempt: int) -> None:
    """Wait a random time that grows with the attempt; the first does not wait."""
    if attempt:
        time.sleep(random.uniform(0, min(0.005 * 2**attempt, 0.5)))  # noqa: S311 (no secret)
