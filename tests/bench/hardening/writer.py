"""One publisher process of `publishers`: light, because it is killed and started again.

    python -m tests.bench.hardening.writer URI NAME < items.json

An item is [task, seed, bytes]. A line is written after each publish that returned.
"""

import json
import random
import sys
import time

from adapters_store.objects import Objects
from adapters_store.store import AdapterStore

FOLDER = "0123456789abcdef"


class Counting(Objects):
    """Counts the numbers of the log that another writer took first."""

    lost = 0

    def put_new(self, path: str, data: bytes) -> bool:
        written = super().put_new(path, data)
        self.lost += path.startswith("log/") and not written
        return written


def artifact(seed: str, size: int) -> bytes:
    """Bytes that only this item has; the store does not look into them."""
    return random.Random(seed).randbytes(size)


def main() -> None:
    uri, name = sys.argv[1:]
    objects = Counting.open(uri, FOLDER)
    store = AdapterStore(objects)
    store.check_writable()
    say(ready=True)
    items = json.load(sys.stdin)
    for task, seed, size in items:
        data, before, began = artifact(seed, size), objects.lost, time.perf_counter()
        done = store.publish(data, task, by=name)
        took = 1000 * (time.perf_counter() - began)
        say(
            seed=seed,
            release=done.release.number,
            generation=done.release.generation,
            created=done.created,
            ms=took,
            races=objects.lost - before,
        )


def say(**values: object) -> None:
    """One line, and at once: the next moment may be the last."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
