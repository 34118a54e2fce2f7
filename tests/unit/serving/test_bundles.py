"""Which samples share a forward."""

import numpy as np

from serving.bundles import bundles
from serving.types import Route, Sample

ONE, OTHER = np.zeros((3, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8)


def sample(pixels, *, head_only: bool) -> Sample:
    """Of any task."""
    return Sample(
        route=Route(task="t", release=1, digest="d"),
        pixels=pixels,
        budget_s=1.0,
        head_only=head_only,
    )


def test_heads_of_one_picture_share_a_forward_and_nothing_else_does():
    samples = [
        sample(ONE, head_only=True),
        sample(ONE, head_only=False),
        sample(OTHER, head_only=True),
        sample(ONE, head_only=True),
        sample(ONE, head_only=False),
    ]

    assert bundles(samples) == [[0, 3], [1], [2], [4]]


def test_equal_pictures_that_were_decoded_apart_are_not_taken_for_one():
    assert bundles([sample(a, head_only=True) for a in (ONE, OTHER)]) == [[0], [1]]
