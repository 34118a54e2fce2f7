"""From a digest to an adapter that may answer: fetch, admit, prepare, and hold to its promise.

Knows the store's bytes and the engine's forms; keeps no books about what is where. Bringing an
adapter in costs milliseconds; proving it costs a forward of the network for each golden image, so
the two are apart: thousands are brought in that may never be asked for.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adapters_store.admission import admit
from adapters_store.backbone import Backbone
from adapters_store.effect import Golden, Promise, golden_images
from adapters_store.manifest import Manifest, Preprocess
from serving.engine.engine import Engine
from serving.engine.prepared import Prepared

_PREPROCESSINGS_MOST: Final = 64

Fetch = Callable[[str], bytes]  # digest → artifact


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Facts:
    """An adapter in host memory: what the door must know of it, and what the engine runs.

    Whoever holds one keeps it from leaving memory: a request does, until it is answered.
    """

    digest: str
    task: str
    method: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    metrics: dict[str, float]
    prepared: Prepared

    @property
    def head_only(self) -> bool:
        """Whether it changes no target: the frozen network's own vector, and a head."""
        return not self.prepared.layout.targets


class Loader:
    """Makes Facts; threads may share it."""

    def __init__(self, backbone: Backbone, engine: Engine, fetch: Fetch) -> None:
        """Compute what the bare backbone gives for the golden images: not while somebody waits.

        Args:
            backbone: pristine fp32 weights, for admission and the effect check.
            engine: for which adapters are prepared.
            fetch: gets an artifact by digest, proven to be that.
        """
        self._spec, self._engine, self._fetch = backbone.spec, engine, fetch
        self._golden, self._lane = Golden(backbone), engine.lane()
        self._pictures = golden_images(backbone.spec.input_size)
        self._one_check = threading.Lock()  # the lane is one thread's at a time
        self._shared: dict[Preprocess, tuple[Preprocess, Tensor, Tensor]] = {}
        self._golden.bare(backbone.spec.preprocess())

    def bring(self, digest: str, data: bytes | None = None) -> tuple[Facts, Promise]:
        """The adapter of this digest, admitted and prepared, and what it has to prove yet.

        Raises:
            AdapterError: these bytes will never be served here.
            StoreError: just now they cannot be had.
        """
        adapter = admit(self._fetch(digest) if data is None else data, self._spec)
        promise = Promise.of(adapter)
        manifest, prepared = adapter.manifest, self._engine.prepare(adapter)
        preprocess, mean, std = self._one_of(manifest, prepared)
        facts = Facts(
            digest=digest,
            task=manifest.task,
            method=manifest.method,
            labels=manifest.labels,
            preprocess=preprocess,
            metrics=manifest.metrics,
            prepared=replace(prepared, mean=mean, std=std),
        )
        return facts, replace(promise, preprocess=preprocess)

    def prove(
        self, facts: Facts, promise: Promise, pause: Callable[[], None] | None = None
    ) -> None:
        """The effect check, by the same code and weights that will serve.

        Args:
            facts: as they were brought in.
            promise: of the same adapter.
            pause: called before each picture, to take its time; without it they are one batch.

        Raises:
            EffectFailedError: it does not do what its manifest says.
        """
        placed = self._engine.place(facts.prepared)
        size = len(self._pictures) if pause is None else 1
        answers: list[NDArray[np.float32]] = []
        for start in range(0, len(self._pictures), size):
            if pause is not None:
                pause()
            some = self._pictures[start : start + size]
            with self._one_check:
                answers += self._lane(some, [placed] * len(some))
        weight, bias = facts.prepared.weight.numpy(), facts.prepared.bias.numpy()
        self._golden.hold(promise, np.stack(answers), weight, bias, self._engine.dtype)

    def _one_of(self, manifest: Manifest, prepared: Prepared) -> tuple[Preprocess, Tensor, Tensor]:
        """One object for equal preprocessings, of thousands of adapters."""
        if len(self._shared) >= _PREPROCESSINGS_MOST:
            self._shared.clear()  # artifacts choose them
        own = (manifest.preprocess, prepared.mean, prepared.std)
        return self._shared.setdefault(manifest.preprocess, own)
