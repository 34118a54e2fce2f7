"""Answers are computed a second time, by the plain path, when nobody waits for this replica.

Knows the store's bytes and one thread of its own. Which answers are kept `looks`
decides, whether two agree `doubt`; what becomes of a release that answered wrongly is its owner's
decision. A look begins when the engine is idle and stops, between two operations, as soon as it no
longer is; altogether looks take a small part of one core.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from adapters_store.adapter import Adapter
from adapters_store.admission import admit
from adapters_store.backbone import Backbone
from adapters_store.effect import TOLERANCE, golden_images, relative
from adapters_store.errors import AdapterError, StoreError
from serving.doubt import compare, usual
from serving.engine.plainly import Plainly, on_one_core
from serving.errors import ClosingError
from serving.looks import Looks
from serving.quiet import Quiet
from serving.telemetry import Telemetry
from serving.types import Answer, Path, Route, Sample

log = logging.getLogger(__name__)

KEPT_BYTES: Final = 16 * 2**20  # pixels and logits that wait for their look
_DUE_S: Final = 600.0  # a release that is asked for is looked at so often at least
_CALM_S: Final = 0.002  # the engine is idle, and not only between two batches of one queue
_CORE_SHARE: Final = 0.05  # of one core, for all looks together
_BACK_OFF_S: Final = 10.0  # after a look that came to nothing
_ROUNDINGS: Final = 3.0  # so much further off than rounding takes the plain path may answers be
_MOVED: Final = 8
_FAR: Final = 1000.0  # so much times what is tolerated; infinity would spoil a sum for ever


class Stream(NamedTuple):
    """Whose answers: of one release, on one path; another path runs on another copy."""

    digest: str
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """An answer, and what it answered."""

    route: Route
    path: Path
    pixels: NDArray[np.uint8]  # [3, H, W]
    logits: NDArray[np.float32]  # [labels]

    @property
    def stream(self) -> Stream:
        """Whose it is."""
        return Stream(self.route.digest, self.path)


Condemn = Callable[[Kept, tuple[str, ...]], None]  # told why


class SecondLook:
    """Keeps answers and looks again; the batcher's thread offers, a thread of its own looks."""

    def __init__(
        self,
        backbone: Backbone,
        fetch: Callable[[str], bytes],
        telemetry: Telemetry,
        quiet: Quiet,
        condemn: Condemn,
        *,
        share: float,
        dtype: torch.dtype,
    ) -> None:
        """Look at nothing yet: the first answer that is kept starts the thread.

        Args:
            backbone: pristine fp32 weights.
            fetch: gets an artifact by digest; what the engine runs is not asked.
            telemetry: where looks are counted.
            quiet: whether somebody waits for the engine.
            condemn: called in the looking thread for an answer that was found wrong twice.
            share: of the answers, above 0 and up to 1.
            dtype: of the engine; says how far rounding may take an answer.
        """
        self._backbone, self._fetch, self._telemetry = backbone, fetch, telemetry
        self._quiet, self._condemn = quiet, condemn
        self._dtype, self._tolerance = dtype, TOLERANCE[dtype]
        self._changed = threading.Condition()  # guards the looks
        self._looks: Looks[Stream, Kept] = Looks(share, KEPT_BYTES, _DUE_S)
        self._closed = False
        self._last: tuple[str, Plainly] | None = None  # likely to be looked at next
        self._golden = golden_images(backbone.spec.input_size)
        self._thread = threading.Thread(target=self._run, name="rootstock-look", daemon=True)

    def offer(self, answered: Iterable[tuple[Sample, Answer]]) -> None:
        """Answers that were just computed; what is kept is copied, for it would hold its batch."""
        now, lost = time.monotonic(), 0
        with self._changed:
            if self._closed:
                return
            before = len(self._looks)
            for sample, answer in answered:
                stream = Stream(sample.route.digest, answer.path)
                nbytes = sample.pixels.nbytes + answer.logits.nbytes
                lost += self._looks.offer(stream, nbytes, now, partial(_kept, sample, answer))
            if len(self._looks) != before:
                if not self._thread.ident:
                    self._thread.start()
                self._show()
                self._changed.notify()
        if lost:
            self._telemetry.count("rootstock_second_looks_dropped", lost)

    def forget(self, digest: str) -> None:
        """Let go of what waits of a release; its next answer, if there is one, is looked at."""
        with self._changed:
            for path in Path:
                self._looks.forget(Stream(digest, path))
            self._show()

    def close(self, timeout_s: float = 5.0) -> None:
        """Look no more; an operation that is under way is finished."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident:
            self._thread.join(timeout_s)

    def check(self) -> None:
        """Verify the bookkeeping.

        Raises:
            AssertionError: it is broken.
        """
        with self._changed:
            self._looks.check()

    def _run(self) -> None:
        # Of usual priority: a low one would be put aside while it holds the interpreter's lock, and
        # on a busy machine whoever answers would then wait for it.
        on_one_core()
        while not self._closed:
            try:
                rest = self._once()
            except ClosingError:
                return
            except Exception:  # whatever it was, the next look may succeed
                log.exception("looking again went wrong")
                rest = _BACK_OFF_S
            self._rest(rest)

    def _once(self) -> float:
        """The next look, once there is one and the engine is idle; for how long to rest after it.

        Raises:
            ClosingError
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._looks))
        self._pause(_CALM_S)
        with self._changed:
            kept = self._looks.next()
            self._show()
        if kept is None:  # it was forgotten meanwhile
            return 0.0
        began = time.thread_time()
        result = self._result(kept)
        took = time.thread_time() - began
        self._telemetry.count("rootstock_second_looks", path=kept.path.value, result=result)
        self._telemetry.count("rootstock_second_look_seconds", took)
        rest = took / _CORE_SHARE - took
        if result == "unavailable":
            with self._changed:
                self._looks.again(kept.stream)
            return max(rest, _BACK_OFF_S)
        return rest

    def _result(self, kept: Kept) -> str:
        """What came of one look; a release that answered wrongly is condemned on the way."""
        try:
            return self._look(kept)
        except ClosingError:
            raise
        except Exception as error:  # whatever it was, the next look may succeed
            expected = isinstance(error, StoreError | AdapterError)
            extra = {"digest": kept.route.digest, "reason": str(error)}
            log.warning("no second look", extra=extra, exc_info=None if expected else error)
            return "unavailable"

    def _look(self, kept: Kept) -> str:
        digest = kept.route.digest
        if self._last is None or self._last[0] != digest:
            self._last = (digest, self._plainly(digest))
        plainly = self._last[1]
        (plain,) = plainly.logits(kept.pixels[None])
        verdict = compare(kept.logits, plain, _usual(plainly.adapter), self._tolerance)
        self._telemetry.observe("rootstock_second_look_distance", min(verdict.part, _FAR))
        if not verdict.faults:
            return "agreed"
        self._last = None  # doubted as well
        return self._confirmed(kept)

    def _confirmed(self, kept: Kept) -> str:
        """Compute it all afresh, from the store's bytes on; the plain path has to prove itself."""
        plainly = self._plainly(kept.route.digest)
        adapter, size = plainly.adapter, _usual(plainly.adapter)
        pictures = np.concatenate([kept.pixels[None], self._golden])
        plain = plainly.logits(pictures)
        verdict = compare(kept.logits, plain[0], size, self._tolerance)
        off = relative(plain[1:], np.asarray(_recorded(adapter)))
        extra = {
            "task": kept.route.task,
            "release": kept.route.release,
            "digest": kept.route.digest,
            "path": kept.path.value,
            "reason": "; ".join(verdict.faults),
        }
        if not verdict.faults or not off <= self._tolerance:  # NaN is no proof
            log.error("the plain path contradicts itself or the record", extra=extra)
            return "unsound"
        if self._dtype != torch.float32:
            tolerance = max(self._tolerance, _ROUNDINGS * self._rounding(plainly, kept.pixels))
            if not compare(kept.logits, plain[0], size, tolerance).faults:
                return "agreed"
        log.error("a wrong answer was given", extra=extra)
        self._condemn(kept, verdict.faults)
        return "disagreed"

    def _rounding(self, plainly: Plainly, picture: NDArray[np.uint8]) -> float:
        """How far rounding alone takes this release's answers: some releases round worse.

        One answer of few labels may be rounded to the right numbers by chance, so it is the most of
        several: the golden images, and the picture, moved aside by a few pixels.
        """
        moved = [np.roll(picture, by, axis=-1) for by in range(_MOVED)]
        pictures, size = np.concatenate([np.stack(moved), self._golden]), _usual(plainly.adapter)
        rounded = Plainly(self._backbone, plainly.adapter, self._pause, self._dtype)
        rows = zip(rounded.logits(pictures), plainly.logits(pictures), strict=True)
        return max(compare(low, full, size, 1.0).part for low, full in rows)

    def _plainly(self, digest: str) -> Plainly:
        """The plain path of one release, from bytes that no other thread has touched."""
        adapter = admit(self._fetch(digest), self._backbone.spec)
        return Plainly(self._backbone, adapter, self._pause)

    def _pause(self, calm_s: float = 0.0) -> None:
        """Let everybody go first whom somebody waits for.

        Raises:
            ClosingError
        """
        self._quiet.wait(calm_s, float("inf"), lambda: self._closed)
        if self._closed:
            raise ClosingError

    def _rest(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def _show(self) -> None:
        self._telemetry.set("rootstock_second_looks_waiting", len(self._looks))


def _kept(sample: Sample, answer: Answer) -> Kept:
    return Kept(sample.route, answer.path, sample.pixels.copy(), answer.logits.copy())


def _recorded(adapter: Adapter) -> tuple[tuple[float, ...], ...]:
    effect = adapter.manifest.effect
    assert effect is not None, "it has passed its effect check here"
    return effect.logits


def _usual(adapter: Adapter) -> float:
    return usual(_recorded(adapter))
