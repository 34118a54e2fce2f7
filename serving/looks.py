"""Which answers are looked at a second time, and those that wait for it. Pure bookkeeping.

Knows no clock, no thread and no tensor. Answers of one release on one path are one stream. Of each
stream a share is drawn, exactly: one answer of every stretch of 1/share, at a place in it that
differs from stretch to stretch, so that no rhythm of the traffic hides anything. One more is due
when none of the stream was kept for a while, the very first among them: what is seldom asked for
is looked at most.

Invariant: what waits never weighs more than the budget; the used bytes are the sum of what waits,
which is counted; no line is empty. `check()` verifies it.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Generic, TypeVar
from zlib import crc32

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

STREAMS_MOST: Final = 2**16  # the least recently asked for goes; it begins anew when it comes back


@dataclass(slots=True)
class _Stream:
    seen: int = 0  # answers, so far
    stretch: int = 0  # the number of this one
    drawn: int = 0  # which answer of all is taken from it
    ends: int = 0  # with this answer the next one begins
    kept: float = -math.inf  # when one was kept last
    missed: bool = False  # one that was due since then found no room, and was counted


class Looks(Generic[K, T]):
    """Streams of answers, and one line for each of what was kept of it."""

    def __init__(self, share: float, most_bytes: int, every_s: float) -> None:
        """Nothing was answered yet.

        Args:
            share: of each stream's answers, above 0 and up to 1.
            most_bytes: that may wait.
            every_s: after so long without one, the next answer of a stream is due.
        """
        self._stretch = 1 / Fraction(str(share))  # exact, so that nothing adds up over years
        self._most_bytes, self._every_s = most_bytes, every_s
        self._streams: OrderedDict[K, _Stream] = OrderedDict()  # least recently asked for first
        self._lines: OrderedDict[K, deque[tuple[T, int]]] = (
            OrderedDict()
        )  # whose turn is next first
        self.used_bytes = self._waiting = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._waiting

    def offer(self, key: K, nbytes: int, now: float, keep: Callable[[], T]) -> int:
        """Count an answer, and keep it when it is drawn or due, and there is room.

        A stream that has nothing in line takes the place of the newest of the longest line.

        Args:
            key: of its stream.
            nbytes: that it would take.
            now: seconds on any clock that does not run backwards.
            keep: makes what is kept.

        Returns:
            How many have lost their place, or found none. As long as a stream finds no place, each
            of its answers is due: they count once, beside those that are drawn.
        """
        stream = self._stream(key)
        number, stream.seen = stream.seen, stream.seen + 1
        if number == stream.ends:
            self._draw(key, stream)
        drawn = number == stream.drawn
        due = now - stream.kept >= self._every_s and key not in self._lines
        if not (drawn or due):
            return 0
        lost = self._push_out(nbytes) if key not in self._lines else 0
        if self.used_bytes + nbytes > self._most_bytes:
            counts = drawn or not stream.missed
            stream.missed |= due
            return lost + counts
        self._lines.setdefault(key, deque()).append((keep(), nbytes))
        self.used_bytes += nbytes
        self._waiting += 1
        stream.kept, stream.missed = now, False
        return lost

    def next(self) -> T | None:
        """Take out what is to be looked at now: one of each stream in turn."""
        if not self._lines:
            return None
        key, line = next(iter(self._lines.items()))
        item, nbytes = line.popleft()
        self.used_bytes -= nbytes
        self._waiting -= 1
        if line:
            self._lines.move_to_end(key)
        else:
            del self._lines[key]
        return item

    def again(self, key: K) -> None:
        """A look came to nothing: the stream's next answer is due."""
        if key in self._streams:
            self._streams[key].kept = -math.inf

    def forget(self, key: K) -> None:
        """Let go of a stream and of all that waits of it; should it go on, it begins anew."""
        self._streams.pop(key, None)
        line = self._lines.pop(key, ())
        self.used_bytes -= sum(nbytes for _, nbytes in line)
        self._waiting -= len(line)

    def check(self) -> None:
        """Verify the invariant.

        Raises:
            AssertionError: it is broken.
        """
        assert all(self._lines.values())
        assert self.used_bytes == sum(n for line in self._lines.values() for _, n in line)
        assert self._waiting == sum(map(len, self._lines.values()))
        assert 0 <= self.used_bytes <= self._most_bytes
        assert len(self._streams) <= STREAMS_MOST
        assert all(s.seen <= s.ends and s.drawn < s.ends for s in self._streams.values())

    def _stream(self, key: K) -> _Stream:
        found = self._streams.get(key)
        if found is None:
            if len(self._streams) >= STREAMS_MOST:
                self._streams.popitem(last=False)
            found = self._streams[key] = _Stream(stretch=-1)
        self._streams.move_to_end(key)
        return found

    def _draw(self, key: K, stream: _Stream) -> None:
        """The next stretch, and which of its answers is taken."""
        stream.stretch += 1
        starts = math.ceil(stream.stretch * self._stretch)
        stream.ends = math.ceil((stream.stretch + 1) * self._stretch)
        place = crc32(f"{key} {stream.stretch}".encode()) % (stream.ends - starts)
        stream.drawn = starts + place

    def _push_out(self, nbytes: int) -> int:
        """Make room, as far as some line has more than one; how many had to leave."""
        gone = 0
        while self.used_bytes + nbytes > self._most_bytes and self._waiting > len(self._lines):
            self.used_bytes -= max(self._lines.values(), key=len).pop()[1]
            self._waiting -= 1
            gone += 1
        return gone
