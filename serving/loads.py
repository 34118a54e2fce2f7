"""One load under way: what it is for, how soon, and the future that many share. Knows no thread."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum

from serving.loading import Facts


class Haste(IntEnum):
    """What a load is for, and how soon."""

    BRING = 0  # into host memory, when convenient
    PROVE = 1  # there already: check it, when nothing else is to do
    EXPECTED = 2  # it is about to answer
    URGENT = 3  # a request waits


def _running() -> "Future[Facts]":
    future: Future[Facts] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(slots=True, eq=False)
class Load:
    """One load. Others may join it, and make haste; none of them can cancel it."""

    haste: Haste
    future: "Future[Facts]" = field(default_factory=_running)
    begun: bool = False
    tries: int = 0  # of the background, so far
    forgotten: bool = False  # nobody is expected to ask again: what comes of it is not kept


def done(facts: Facts) -> "Future[Facts]":
    """A load that need not be begun."""
    future: Future[Facts] = Future()
    future.set_result(facts)
    return future


def broken(error: Exception) -> "Future[Facts]":
    """A load that would fail."""
    future: Future[Facts] = Future()
    future.set_exception(error)
    return future
