"""An honest engine is never found wrong: every method, both lanes, both dtypes."""

import numpy as np
import pytest

from adapters_store import plain
from adapters_store.adapter import Adapter
from adapters_store.effect import TOLERANCE, Golden, golden_images
from adapters_store.methods.table import METHODS
from serving.doubt import compare, usual
from serving.engine.engine import Engine
from tests.contract.test_mixed import lively

MOST = 0.6  # of what is tolerated: so much room is left, with factors far wilder than trained ones


@pytest.fixture(scope="module")
def pictures(nano):
    """Smooth, as photographs are, and otherwise unlike each other."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 3, 8, 8)).astype(np.float64)
    size = nano.spec.input_size[0] // 8
    smooth = np.kron(coarse, np.ones((size, size)))
    noisy = smooth + rng.normal(0, 10, smooth.shape)
    return np.concatenate([np.clip(noisy, 0, 255).astype(np.uint8), golden_images((64, 64))[3:]])


@pytest.fixture(scope="module")
def crowd(nano, pictures, make_adapter):
    """An adapter of every method with its record, and what it says alone."""
    found = []
    for seed, method in enumerate(METHODS):
        made = make_adapter(nano, method, seed=seed, labels=2 + 7 * seed, effect=False)
        adapter = lively(made, nano)
        record = Golden(nano).record(adapter)
        manifest = adapter.manifest.model_copy(update={"effect": record})
        whole = Adapter(manifest=manifest, tensors=adapter.tensors)
        found.append((whole, plain.logits(nano, whole, pictures)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_method_answers_well_within_what_is_tolerated_in_both_lanes(
    nano, crowd, pictures, dtype
):
    engine = Engine(nano, dtype)
    mixed = [engine.place(engine.prepare(adapter)) for adapter, _ in crowd]
    merged = [engine.fold(adapter) for adapter, _ in crowd]
    far = {}

    for lane, how in (("mixed", mixed), ("merged", merged)):
        for place, picture in enumerate(pictures):
            answers = engine.run(np.stack([picture] * len(how)), how)
            for (adapter, alone), answer in zip(crowd, answers, strict=True):
                size = usual(adapter.manifest.effect.logits)
                verdict = compare(answer, alone[place], size, TOLERANCE[engine.dtype])
                name = f"{adapter.manifest.method} {lane} {place}"
                assert verdict.faults == (), name
                far[name] = verdict.part

    assert max(far.values()) < MOST, max(far, key=far.get)
    assert max(far.values()) > 0, "they are computed in different ways"
