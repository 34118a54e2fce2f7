"""Which tasks deserve weights of their own. Pure: knows numbers, no tensor, clock, store or thread.

A task is worth merging while its own groups save engine time, as measured on the traffic there is;
pinned ones are merged whenever they fit. Two thresholds and a rest after every change keep a task
at the edge from flapping. Bytes are reserved at promotion, before anything is built, and the
budget is never exceeded. `check()` verifies the bookkeeping.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_FORGET: Final = 1e-6  # a share below this is none


class Reason(StrEnum):
    """Why something changed, or was not to be."""

    HOT = "hot"  # promoted: its groups save enough
    PINNED = "pinned"  # promoted: the configuration names its task
    COLD = "cold"  # demoted: they no longer do
    BUDGET = "budget"  # demoted for another that saves more or is pinned; refused: does not fit
    SUPERSEDED = "superseded"  # demoted: requests no longer reach this release
    DISAGREED = "disagreed"  # refused for good: merged it does not answer as mixed
    UNAVAILABLE = "unavailable"  # refused for a while: could not be built just now


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The numbers that decide; shares are engine seconds saved per second."""

    budget_bytes: int
    promote_share: float = 0.005
    keep_share: float = 0.0025  # demote below it
    displace: float = 1.5  # by how much a task must save more to take the place of others
    memory_s: float = 30.0  # for how long traffic counts
    stay_s: float = 60.0  # merged at least so long; and out, after a demotion
    retry_s: float = 10.0  # after it could not be built


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do now, in this order; each with its reason."""

    weigh: tuple[str, ...] = ()  # wanted, but of unknown size: say it with `weighed`, look again
    demote: tuple[tuple[str, Reason], ...] = ()
    promote: tuple[tuple[str, Reason], ...] = ()
    refuse: tuple[tuple[str, Reason], ...] = ()  # pins that do not fit; said at every look


@dataclass(slots=True)
class _Merged:
    nbytes: int
    since: float


class Promotion:
    """The bookkeeping of the merged lane; its owner does what `look` decides."""

    def __init__(self, rules: Rules) -> None:
        """Nothing is merged."""
        self.rules = rules
        self._at = -math.inf  # time of the last look
        self._shares: dict[str, float] = {}
        self._bytes: dict[str, int] = {}
        self._held: dict[str, _Merged] = {}  # merged, or being built
        self._rests: dict[str, float] = {}  # not to be promoted before
        self._barred: set[str] = set()  # never to be promoted

    def look(
        self,
        now: float,
        saved_s: Mapping[str, float],
        pinned: Iterable[str],
        reachable: Callable[[str], bool],
    ) -> Decision:
        """Decide; what is promoted counts as merged from here on.

        Args:
            now: seconds on any clock that does not run backwards.
            saved_s: by digest, engine seconds that its own groups saved, or would have saved,
                since the last look.
            pinned: digests that the configuration wants merged, the most wanted first.
            reachable: whether requests for a task still lead to this digest.
        """
        self._count(now, saved_s)
        pins = [d for d in dict.fromkeys(pinned) if reachable(d)]
        demote = {d: Reason.SUPERSEDED for d in self._held if not reachable(d)}
        for digest, merged in self._held.items():
            cold = self._shares.get(digest, 0.0) < self.rules.keep_share
            if digest not in pins and cold and self._stayed(merged, now):
                demote.setdefault(digest, Reason.COLD)
        for digest in demote:
            self._drop(digest, now)
        wanted = [d for d in pins if self._may(d, now)]
        promote: dict[str, Reason] = {}
        refuse: dict[str, Reason] = {}
        for digest in wanted:
            if digest in self._bytes:
                victims = self._room(digest, now, pins, by_right=True)
                if victims is None:
                    refuse[digest] = Reason.BUDGET
                    continue
                demote |= dict.fromkeys(victims, Reason.BUDGET)
                promote[digest] = Reason.PINNED
                self._take(digest, victims, now)
        weigh = [d for d in wanted if d not in self._bytes]
        for digest in [] if weigh else self._hottest(now, pins, reachable):
            if digest not in self._bytes:
                weigh.append(digest)
                continue
            victims = self._room(digest, now, pins, by_right=False)
            if victims is not None:
                demote |= dict.fromkeys(victims, Reason.BUDGET)
                promote[digest] = Reason.HOT
                self._take(digest, victims, now)
        self._forget(now, pins)
        return Decision(
            weigh=tuple(weigh),
            demote=tuple(demote.items()),
            promote=tuple(promote.items()),
            refuse=tuple(refuse.items()),
        )

    def weighed(self, digest: str, nbytes: int) -> None:
        """Note what a digest takes when merged."""
        self._bytes[digest] = nbytes

    def failed(self, digest: str, reason: Reason, now: float) -> None:
        """It could not be weighed or built: `disagreed` is for ever, anything else for a while."""
        self._held.pop(digest, None)
        if reason is Reason.DISAGREED:
            self._barred.add(digest)
            self._rests.pop(digest, None)
        else:
            until = now + self.rules.retry_s
            self._rests[digest] = max(until, self._rests.get(digest, until))

    @property
    def merged(self) -> Mapping[str, int]:
        """Bytes by digest, of what is merged or being built."""
        return {digest: merged.nbytes for digest, merged in self._held.items()}

    def check(self) -> None:
        """Verify the bookkeeping.

        Raises:
            AssertionError: it is broken.
        """
        assert sum(m.nbytes for m in self._held.values()) <= self.rules.budget_bytes
        assert not set(self._held) & self._barred
        assert not set(self._held) & set(self._rests)
        assert all(self._bytes[d] == m.nbytes for d, m in self._held.items())
        assert all(0 <= share < math.inf for share in self._shares.values())

    def _count(self, now: float, saved_s: Mapping[str, float]) -> None:
        """Shares decay; what came since the last look is added as a share of that time."""
        memory = self.rules.memory_s
        past = max(now - self._at, 0.0)
        kept = math.exp(-past / memory)
        weight = (1 - kept) / past if 0 < past < math.inf else 1 / memory
        for digest in {**self._shares, **saved_s}:
            fresh = weight * max(saved_s.get(digest, 0.0), 0.0)
            self._shares[digest] = kept * self._shares.get(digest, 0.0) + fresh
        self._at = max(now, self._at)

    def _stayed(self, merged: _Merged, now: float) -> bool:
        return now - merged.since >= self.rules.stay_s

    def _may(self, digest: str, now: float) -> bool:
        """Whether it may be promoted at all."""
        barred = digest in self._held or digest in self._barred
        return not barred and self._rests.get(digest, -math.inf) <= now

    def _hottest(self, now: float, pins: list[str], reachable: Callable[[str], bool]) -> list[str]:
        """What saves enough, by what it saves per byte; of unknown size first."""
        hot = [d for d, share in self._shares.items() if share >= self.rules.promote_share]
        may = [d for d in hot if d not in pins and self._may(d, now) and reachable(d)]
        return sorted(may, key=lambda d: (-self._worth(d), d))

    def _worth(self, digest: str) -> float:
        """Share saved per byte."""
        nbytes = self._bytes.get(digest, 0)
        return self._shares.get(digest, 0.0) / nbytes if nbytes else math.inf

    def _room(
        self, digest: str, now: float, pins: list[str], *, by_right: bool
    ) -> list[str] | None:
        """Who must leave for it; None when it would not fit even so.

        A pinned task takes any place that no pinned one holds; a hot one only the places of those
        that had their stay, and that save clearly less than it, all together.
        """
        lacking = self._bytes[digest] - self.rules.budget_bytes
        lacking += sum(m.nbytes for m in self._held.values())
        victims: list[str] = []
        for other in sorted(self._held, key=lambda d: (self._worth(d), d)):
            yields = other not in pins and (by_right or self._stayed(self._held[other], now))
            if lacking > 0 and yields:
                victims.append(other)
                lacking -= self._held[other].nbytes
        for other in victims[::-1]:  # the last may have made room for several
            if lacking + self._held[other].nbytes <= 0:
                victims.remove(other)
                lacking += self._held[other].nbytes
        theirs = sum(self._shares.get(other, 0.0) for other in victims)
        enough = by_right or self._shares[digest] >= self.rules.displace * theirs
        return victims if lacking <= 0 and enough else None

    def _take(self, digest: str, victims: list[str], now: float) -> None:
        for other in victims:
            self._drop(other, now)
        self._held[digest] = _Merged(self._bytes[digest], now)
        self._rests.pop(digest, None)

    def _drop(self, digest: str, now: float) -> None:
        del self._held[digest]
        self._rests[digest] = now + self.rules.stay_s

    def _forget(self, now: float, pins: list[str]) -> None:
        """What nobody asks for any more; the barred stay, they are few and never to be tried."""
        self._rests = {d: until for d, until in self._rests.items() if until > now}
        self._shares = {d: s for d, s in self._shares.items() if s >= _FORGET}
        known = {*self._shares, *self._held, *pins}
        self._bytes = {d: n for d, n in self._bytes.items() if d in known}
