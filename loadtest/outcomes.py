"""What may become of one request. Knows no file and no network."""

from enum import IntEnum
from typing import Final


class Outcome(IntEnum):
    """Of a hit. The numbers are part of the format of hits: none is given anew."""

    OK = 0  # a right answer
    EXPECTED = 1  # refused as it should be: no such task, or no picture
    WRONG = 2  # answered, and not with the truth
    SHED = 3  # 429 or 503: the server refused work
    LATE = 4  # 504: the server could not make the deadline
    CLIENT_ERROR = 5  # any other 4xx
    SERVER_ERROR = 6  # any other 5xx
    BAD_BODY = 7  # 2xx that cannot be read
    DISCONNECTED = 8  # closed without an answer
    CONNECT = 9  # no connection
    TLS = 10
    TIMEOUT = 11  # the client's patience
    DROPPED = 12  # never sent: too many in flight
    UNSENT = 13  # never sent: the client fell behind until the end
    ABANDONED = 14  # in flight when the run was broken off


class Wrong(IntEnum):
    """Why an answer is not the truth; zero where it is."""

    NO = 0
    LABEL = 1  # another label than is expected of this adapter and image
    DIGEST = 2  # another adapter than the release has
    STALE = 3  # an older release than the one that was promised
    ANSWERED = 4  # a prediction where there is nothing to predict
    TASK = 5  # an answer for another task, or too few answers


ANSWERED: Final = frozenset(range(Outcome.BAD_BODY + 1))  # an HTTP answer came
SENT: Final = frozenset(Outcome) - {Outcome.DROPPED, Outcome.UNSENT}
# Neither right nor refused as it should be. A run that was broken off is no one's fault.
FAILED: Final = frozenset(Outcome) - {Outcome.OK, Outcome.EXPECTED, Outcome.ABANDONED}


def of_status(status: int) -> Outcome:
    """What a status that is no success means."""
    if status in (429, 503):
        return Outcome.SHED
    if status == 504:
        return Outcome.LATE
    return Outcome.SERVER_ERROR if status >= 500 else Outcome.CLIENT_ERROR
