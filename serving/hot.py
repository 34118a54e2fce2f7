"""The merged lane's thin shell: counts, looks now and then, builds aside, gates, swaps whole.

Knows engine, store and catalog; no HTTP and no queue. What is to be merged `promotion` decides. It
all happens in one thread of low priority; a batch sees a release merged or not, never in between.
"""

import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Final

import numpy as np

from adapters_store.adapter import Adapter
from adapters_store.admission import admit
from adapters_store.backbone import Backbone
from adapters_store.effect import TOLERANCE, Golden, golden_images
from adapters_store.errors import AdapterError, EffectFailedError, StoreError
from serving.engine.engine import Engine
from serving.engine.merged import Folded, disagreements, weigh
from serving.gain import Gain
from serving.promotion import Promotion, Reason, Rules
from serving.router import standing_in
from serving.sync import View
from serving.telemetry import Telemetry
from serving.types import Route

log = logging.getLogger(__name__)

_LOOK_S: Final = 2.0
_NICE: Final = 10  # behind everything that somebody waits for


class UnfoldableError(AdapterError):
    """What an adapter does cannot be put into the weights of this network."""


class Hot:
    """Which releases are merged just now; `choose` is for the batcher, the rest is one thread's."""

    def __init__(
        self,
        backbone: Backbone,
        engine: Engine,
        fetch: Callable[[str], bytes],
        telemetry: Telemetry,
        view: Callable[[], View],
        refused: Callable[[str], bool],
        *,
        rules: Rules,
        pins: Sequence[str] = (),
        gain: Gain,
    ) -> None:
        """Nothing is merged yet; `start` looks for the first time.

        Args:
            backbone: pristine fp32 weights, from which everything is folded.
            engine: that runs what was folded.
            fetch: gets an artifact by digest; host memory keeps only what the mixed lane needs.
            telemetry: where changes are counted.
            view: the newest view of the catalog.
            refused: whether a digest is known never to be served here.
            rules: budget and thresholds.
            pins: tasks that are merged whenever they fit, the most wanted first.
            gain: what merging saves, as measured on this device; an empty one promotes only pins.
        """
        self._backbone, self._engine, self._fetch = backbone, engine, fetch
        self._telemetry, self._view, self._refused = telemetry, view, refused
        self._policy, self._pins = Promotion(rules), tuple(pins)
        self._saved_s = cache(gain.saved_s)
        self._golden, self._lane = Golden(backbone), engine.lane()
        self._pictures = golden_images(backbone.spec.input_size)
        self._folded: Mapping[str, Folded] = {}  # replaced whole, never altered
        self._pinned: frozenset[str] = frozenset()
        self._counting = threading.Lock()
        self._saved: Counter[str] = Counter()  # engine seconds by digest, since the last look
        self._known: View | None = None  # that batches were last chosen by
        self._reached: tuple[View | None, frozenset[str]] = (None, frozenset())
        self._unfit: frozenset[str] = frozenset()
        self._doubted: frozenset[str] = frozenset()  # replaced whole: their copies answered wrongly
        self._dropped: frozenset[str] = frozenset()  # those of them that a look has seen
        self._last: tuple[str, Adapter] | None = None  # weighed, and likely to be folded next
        self._wake, self._stopped = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="rootstock-merge", daemon=True)

    @property
    def merged(self) -> frozenset[str]:
        """Digests that are merged."""
        return frozenset(self._folded)

    def choose(self, routes: Sequence[Route]) -> dict[str, Folded]:
        """What this batch runs merged, by digest: pinned releases, and groups that pay.

        For the batcher's thread; also counts what merging would have saved.
        """
        groups = Counter(r.digest for r in routes)
        saved = {d: self._saved_s(n, len(routes)) for d, n in groups.items()}
        with self._counting:
            self._saved.update({d: s for d, s in saved.items() if s})
        view = self._view()
        if view is not self._known:  # something may be superseded: not to wait for the next look
            self._known = view
            self._wake.set()
        folded, pinned = self._folded, self._pinned
        wanted = (d for d in groups if d in folded and (saved[d] or d in pinned))
        return {d: folded[d] for d in wanted if d not in self._doubted and not self._refused(d)}

    def doubt(self, digest: str) -> None:
        """A merged copy answered wrongly: no batch sees it again, nor another of this release."""
        with self._counting:
            self._doubted |= {digest}
        self._wake.set()

    def look(self) -> None:
        """Decide and act once; blocking."""
        view, now = self._view(), time.monotonic
        pins = tuple(d for task in self._pins if (d := self._active(view, task)) is not None)
        self._pinned = frozenset(pins)
        self._drop_doubted()
        reachable = self._reachable(view)
        with self._counting:
            saved, self._saved = self._saved, Counter()
        while True:
            found = self._policy.look(
                now(), saved, pins, lambda d: d in reachable and not self._refused(d)
            )
            for digest, why in found.demote:
                self._swap({d: f for d, f in self._folded.items() if d != digest})
                self._told("demoted", digest, why)
            for digest, why in found.promote:
                self._build(digest, why)
            if not found.weigh:
                break
            for digest in found.weigh:
                self._weigh(digest)
            saved = Counter()
        self._last = None
        unfit = frozenset(d for d, _ in found.refuse)
        for digest in unfit - self._unfit:
            self._told("refused", digest, Reason.BUDGET)
        self._unfit = unfit

    def start(self) -> None:
        """Look from now on, every few seconds."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop looking; what is being built is finished first, if it takes no longer."""
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def check(self) -> None:
        """Verify the bookkeeping, between looks.

        Raises:
            AssertionError: it is broken.
        """
        self._policy.check()
        assert self._policy.merged == {d: f.nbytes for d, f in self._folded.items()}

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while not self._stopped:
            try:
                self.look()
            except Exception:  # whatever it was, the next look may succeed
                log.exception("the merged lane could not be looked after")
            self._wake.wait(_LOOK_S)
            self._wake.clear()

    def _active(self, view: View, task: str) -> str | None:
        """The digest that answers for a task without further words."""
        state = view.catalog.tasks.get(task)
        if state is None or state.retired or state.active is None:
            return None
        release = state.find(state.active)
        if release is None or self._refused(release.digest):
            release = standing_in(view.verified.get(task, ()), self._refused)
        return None if release is None else release.digest

    def _reachable(self, view: View) -> frozenset[str]:
        """Digests that requests lead to, other than by a release's number.

        What the catalog points at is collected once for each view. What stands in may change
        without a new one: by a quarantine, or by a load on demand.
        """
        if self._reached[0] is not view:
            found: set[str] = set()
            for state in view.catalog.tasks.values():
                numbers = {*state.aliases.values(), *state.split, state.active or 0}
                releases = () if state.retired else map(state.find, numbers)
                found |= {r.digest for r in releases if r is not None}
            self._reached = (view, frozenset(found))
        answering = (standing_in(passed, self._refused) for passed in view.verified.values())
        return self._reached[1].union(r.digest for r in answering if r is not None)

    def _drop_doubted(self) -> None:
        for digest in self._doubted - self._dropped:
            self._policy.failed(digest, Reason.DISAGREED, time.monotonic())
            self._swap({d: f for d, f in self._folded.items() if d != digest})
            self._told("demoted", digest, Reason.DISAGREED)
            self._dropped |= {digest}

    def _weigh(self, digest: str) -> None:
        try:
            nbytes = weigh(self._backbone, self._admitted(digest), self._engine.dtype)
            self._policy.weighed(digest, nbytes)
        except Exception as error:  # noqa: BLE001 (one release's trouble is not the others')
            self._failed(digest, error)

    def _build(self, digest: str, why: Reason) -> None:
        """Fold aside, gate, and only then let batches see it."""
        try:
            adapter = self._admitted(digest)
            folded = self._fold(adapter)
            self._gate(adapter, folded)
        except Exception as error:  # noqa: BLE001
            self._failed(digest, error)
            return
        assert folded.nbytes == self._policy.merged[digest], "it takes what was reserved for it"
        self._swap({**self._folded, digest: folded})
        self._told("promoted", digest, why)

    def _admitted(self, digest: str) -> Adapter:
        if self._last is None or self._last[0] != digest:
            self._last = (digest, admit(self._fetch(digest), self._backbone.spec))
        return self._last[1]

    def _fold(self, adapter: Adapter) -> Folded:
        """The adapter in weights of its own.

        Raises:
            UnfoldableError: no weights of this network can hold what it does.
        """
        try:
            return self._engine.fold(adapter)
        except ValueError as error:  # a shift, of a target without bias
            raise UnfoldableError(str(error)) from error

    def _gate(self, adapter: Adapter, folded: Folded) -> None:
        """Merged must answer as mixed and as the manifest recorded.

        Raises:
            EffectFailedError: it does not.
        """
        mixed, dtype = self._engine.place(self._engine.prepare(adapter)), self._engine.dtype
        count = len(self._pictures)
        wanted = np.stack(self._lane(self._pictures, [mixed] * count))
        given = np.stack(self._lane(self._pictures, [folded] * count))
        if faults := disagreements(given, wanted, TOLERANCE[dtype]):
            raise EffectFailedError(adapter.manifest.task, faults)
        self._golden.check(adapter, given, dtype)

    def _failed(self, digest: str, error: Exception) -> None:
        """What fails its checks or cannot be folded is never tried again; all else may pass."""
        for_good = isinstance(error, AdapterError)
        reason = Reason.DISAGREED if for_good else Reason.UNAVAILABLE
        expected = for_good or isinstance(error, StoreError)
        log.warning(
            "not merged",
            extra={"digest": digest, "reason": str(error)},
            exc_info=None if expected else error,
        )
        self._policy.failed(digest, reason, time.monotonic())
        self._told("refused", digest, reason)

    def _swap(self, folded: Mapping[str, Folded]) -> None:
        self._folded = folded
        self._telemetry.set("rootstock_merged_tasks", len(folded))
        self._telemetry.set("rootstock_merged_bytes", sum(f.nbytes for f in folded.values()))

    def _told(self, change: str, digest: str, why: Reason) -> None:
        self._telemetry.count("rootstock_merges", change=change, reason=why.value)
        log.info("merged lane", extra={"change": change, "digest": digest, "reason": why.value})
