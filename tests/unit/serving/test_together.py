"""No forward is done twice: heads of one picture are one sample of the trunk."""

import numpy as np
import pytest

from adapters_store import artifact
from serving.engine.together import together


@pytest.fixture(scope="module")
def prepared(tiny, engine, make_adapter):
    """Three heads of different sizes, and one adapter with operators."""

    def of(method, seed, labels):
        data = artifact.write(make_adapter(tiny, method, seed=seed, labels=labels, effect=False))
        return engine.place(engine.prepare(artifact.read(data)))

    return [of("linear", 1, 2), of("linear", 2, 5), of("linear", 3, 3), of("lora", 4, 4)]


@pytest.fixture(scope="module")
def pictures():
    noise = np.random.default_rng(0)
    return [noise.integers(0, 256, (3, 32, 32), np.uint8) for _ in range(2)]


def test_every_sample_has_the_logits_that_it_has_alone(engine, prepared, pictures):
    one, other = pictures
    samples = [
        (one, prepared[0]),
        (one, prepared[3]),
        (other, prepared[1]),
        (one, prepared[1]),
        (one, prepared[3]),
        (one, prepared[2]),
    ]

    batch = together([p for p, _ in samples], [a for _, a in samples])

    assert len(batch.pixels) == len(batch.adapters) == 4
    logits = batch.apart(engine.run(batch.pixels, batch.adapters))
    for (picture, adapter), row in zip(samples, logits, strict=True):
        (alone,) = engine.run(picture[None], [adapter])
        np.testing.assert_allclose(row, alone, rtol=1e-4, atol=1e-5)


def test_no_more_labels_are_joined_than_may_be(engine, prepared, pictures):
    """Heads of 2, 5 and 3 labels; what does not fit has a forward of its own, and its answer."""
    adapters = [prepared[0], prepared[1], prepared[2]]

    batch = together([pictures[0]] * 3, adapters, rows_max=7)

    assert [len(one.bias) for one in batch.adapters] == [7, 3]
    assert batch.places == [(0, 0, 2), (0, 2, 7), (1, 0, 3)]
    (alone,) = engine.run(pictures[0][None], [prepared[2]])
    logits = batch.apart(engine.run(batch.pixels, batch.adapters))
    np.testing.assert_allclose(logits[2], alone, rtol=1e-4, atol=1e-5)


def test_one_head_that_is_larger_is_computed_all_the_same(prepared, pictures):
    batch = together([pictures[0]] * 2, prepared[1:3], rows_max=2)

    assert list(batch.adapters) == prepared[1:3]


def test_a_batch_of_different_pictures_stays_as_it_is(prepared, pictures):
    batch = together(pictures, prepared[:2])

    assert list(batch.adapters) == prepared[:2]
    assert batch.places == [(0, 0, 2), (1, 0, 5)]
