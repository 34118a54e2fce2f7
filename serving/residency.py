"""Where adapters are: store → host memory → slot. Knows no task and no HTTP.

One load per digest at a time, however many ask. Bytes that fail validation are remembered by
digest and never fetched again; a store that cannot be reached only backs off. An adapter answers
only after its effect check. Nothing leaves a slot while a batch uses it, and nothing leaves a slot
or host memory before its successor is ready.

A request holds the `Facts` that it got until it is answered. As long as any does, the adapter can
be put into a slot, even if its place in host memory went to another: a batch never waits for a
store.
"""

from collections.abc import Iterable
from concurrent.futures import Future

from adapters_store.backbone import Backbone
from serving.engine.engine import Engine
from serving.engine.prepared import Prepared
from serving.errors import QuarantinedError
from serving.host_memory import HostMemory
from serving.loading import Facts, Fetch, Loader
from serving.loads import Haste
from serving.placing import Placing
from serving.quiet import Quiet
from serving.telemetry import Telemetry


class Residency:
    """Host memory and slots of one replica; threads may share it."""

    def __init__(
        self,
        backbone: Backbone,
        engine: Engine,
        fetch: Fetch,
        telemetry: Telemetry,
        *,
        slots: int,
        host_bytes: int,
        slot_bytes: int | None = None,
        loader: type[Loader] = Loader,
    ) -> None:
        """Start empty.

        Args:
            backbone: pristine fp32 weights, for admission and the effect check.
            engine: for which adapters are prepared.
            fetch: gets an artifact by digest.
            telemetry: where hits, misses and loads are counted.
            slots: adapters on the device at once.
            host_bytes: prepared adapters kept in host memory.
            slot_bytes: adapters on the device; None: as many as there are slots.
            loader: what brings adapters in and proves them.
        """
        self.quiet = Quiet()  # whether a batch runs, or somebody waits for a load
        self._host = HostMemory(loader(backbone, engine, fetch), telemetry, self.quiet, host_bytes)
        self._placing = Placing(engine, telemetry, slots, slot_bytes)

    def get(self, digest: str) -> "Future[Facts]":
        """The adapter of this digest, for a request that waits: in memory, or loaded and verified.

        The future is shared and cannot be cancelled. Hold on to what it gives until the batch has
        run. It raises:
            AdapterError: this digest will never be served here.
            StoreError: not just now; out of reach, or damaged there.
        """
        return self._host.get(digest, Haste.URGENT)

    def expect(self, digest: str) -> "Future[Facts]":
        """The same for one that is about to answer; requests go first."""
        return self._host.get(digest, Haste.EXPECTED)

    def prefetch(self, digests: Iterable[str]) -> None:
        """Bring adapters into host memory when convenient, as long as there is room."""
        self._host.prefetch(digests)

    def install(self, digest: str, data: bytes, task: str) -> Facts:
        """Verify and keep bytes that came with a publish, before they are in any store; blocking.

        Raises:
            AdapterError: with every fault; TaskMismatchError when they are another task's.
        """
        return self._host.install(digest, data, task)

    def refused(self, digest: str) -> bool:
        """Whether this digest is known never to be served here."""
        return self._host.refused(digest)

    def refusals(self) -> frozenset[str]:
        """Digests that are known never to be served here."""
        return self._host.refusals()

    def quarantine(self, digest: str, error: QuarantinedError) -> None:
        """Serve this digest no longer: it has answered wrongly. A batch that runs still ends."""
        self._host.quarantine(digest, error)
        self._placing.drop((digest,))

    def quarantines(self) -> list[QuarantinedError]:
        """Of everything that is quarantined."""
        return self._host.quarantines()

    def slot(self, digests: Iterable[str]) -> dict[str, Prepared | Exception]:
        """Put adapters into slots and pin them there, for one batch; `release` once after it.

        Nothing is loaded: somebody must still hold the Facts of every digest.
        """
        self.quiet.begin()
        found: dict[str, Prepared | Exception] = {}
        for digest in dict.fromkeys(digests):
            try:
                found[digest] = self._place(digest)
            except Exception as error:  # noqa: BLE001 (one adapter's trouble is not its neighbours')
                found[digest] = error
        return found

    def release(self, digests: Iterable[str]) -> None:
        """The batch has run: take back one pin of each that has a slot."""
        self._placing.release(digests)
        self.quiet.end()

    def forget(self, digests: Iterable[str]) -> None:
        """Let adapters go that nobody is expected to ask for again, now or when they arrive."""
        gone = tuple(digests)
        self._host.forget(gone)
        self._placing.drop(gone)

    def resident(self) -> tuple[str, ...]:
        """Digests in a slot."""
        return self._placing.resident()

    def known(self) -> int:
        """Adapters in host memory."""
        return self._host.known()

    def close(self) -> None:
        """Stop loading; whoever still waits for a load is told."""
        self._host.close()

    def check(self) -> None:
        """Verify the bookkeeping.

        Raises:
            AssertionError: it is broken.
        """
        self._host.check()
        self._placing.check()
        self.quiet.check()

    def _place(self, digest: str) -> Prepared:
        if error := self._host.failure(digest):  # since the request came in
            raise error
        placed = self._placing.pin(digest)
        if placed is None:
            facts = self._host.at_hand(digest)
            if facts is None:
                raise self._host.failure(digest) or LookupError(digest)
            placed = self._placing.place(facts)
            if error := self._host.failure(digest):  # meanwhile: its slot was not there to be freed
                self._placing.drop((digest,))
                self._placing.release((digest,))
                raise error
        return placed
