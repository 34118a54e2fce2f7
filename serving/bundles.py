"""Which samples one forward answers. Pure: knows neither queue nor tensor.

An adapter that changes no target is a head alone: what it reads is the frozen network's own vector
of the picture. However many such tasks are asked about one picture, the network runs once.
"""

from collections.abc import Sequence

from serving.types import Sample


def bundles(samples: Sequence[Sample]) -> list[list[int]]:
    """Positions of samples that share a forward, each in one bundle; every other one is alone.

    Two samples have the same picture when they hold the same array: it was decoded once, for one
    way of preprocessing.
    """
    found: list[list[int]] = []
    known: dict[int, list[int]] = {}
    for i, sample in enumerate(samples):
        bundle = known.get(id(sample.pixels)) if sample.head_only else None
        if bundle is None:
            found.append(bundle := [])
            if sample.head_only:
                known[id(sample.pixels)] = bundle
        bundle.append(i)
    return found
