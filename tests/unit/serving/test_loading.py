"""Loading: what it costs to bring an adapter in and to prove it, and what thousands share."""

import numpy as np
import pytest

from adapters_store import artifact, plain
from adapters_store.adapter import Adapter
from adapters_store.errors import EffectFailedError
from serving.loading import Loader


@pytest.fixture
def loader(tiny, engine, make_adapter):
    """Reads `seed 3` as an adapter made with that seed."""

    def fetch(digest):
        return artifact.write(make_adapter(tiny, "lora", f"task-{digest}", seed=int(digest)))

    return Loader(tiny, engine, fetch)


def test_the_first_load_does_not_wait_for_the_bare_backbone(loader, monkeypatch):
    """What it gives for the golden images was computed before."""
    facts, promise = loader.bring("1")

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(plain, "vectors", never)
    loader.prove(facts, promise)


def test_a_check_that_takes_its_time_comes_to_the_same(loader, tiny, make_adapter):
    facts, promise = loader.bring("1")
    pauses = []
    loader.prove(facts, promise, lambda: pauses.append(1))
    assert len(pauses) == 4

    adapter = make_adapter(tiny, "lora", seed=2)
    tensors = {**adapter.tensors, "head.bias": adapter.head_bias + np.float32(1)}
    data = artifact.write(Adapter(manifest=adapter.manifest, tensors=tensors))
    facts, promise = loader.bring("0", data)
    for pause in (None, lambda: None):
        with pytest.raises(EffectFailedError, match="other logits"):
            loader.prove(facts, promise, pause)


def test_adapters_share_what_is_equal(loader):
    facts, others = loader.bring("1")[0], loader.bring("2")[0]

    assert facts.preprocess is others.preprocess
    assert facts.prepared.mean is others.prepared.mean
    assert facts.prepared.std is others.prepared.std
    assert facts.prepared.layout is others.prepared.layout


def test_an_adapter_without_an_effect_record_is_refused_before_its_check(
    loader, tiny, make_adapter
):
    data = artifact.write(make_adapter(tiny, effect=False))

    with pytest.raises(EffectFailedError, match="no effect record"):
        loader.bring("0", data)
