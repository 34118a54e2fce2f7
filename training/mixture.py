"""Adapters of several tasks on one network, each on its own rows. Knows no image and no loss.

A mixed batch holds the rows of one task behind those of another. The frozen target computes all of
them in one product; what a site does before and after it touches the rows of its own task alone,
and so do its gradients, for nothing in the networks of our families mixes images.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from adapters_store.methods.protocol import AdapterModule, Frozen, Site

MOST: Final = 64  # tasks in one batch: each is a few frames deeper on Python's stack


class Seats:
    """How many rows of the next batch are whose, in the order of the tasks."""

    def __init__(self, tasks: int) -> None:
        self.sizes = (0,) * tasks

    def taken(self, length: int) -> tuple[int, ...]:
        """Rows of a tensor of this length, task by task; windows of an image lie side by side."""
        images = sum(self.sizes)
        assert images, "nobody said whose the rows are"
        assert length % images == 0, "rows of a batch are not whole images"
        return tuple(size * (length // images) for size in self.sizes)


class MixedSite(Site):
    """The sites of several tasks at one target."""

    def __init__(self, sites: Sequence[Site], seats: Seats) -> None:
        super().__init__()
        self.sites = torch.nn.ModuleList(sites)
        self._seats = seats

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """Every task's rows of x by its own site; one call of `frozen` for all of them."""
        sizes = self._seats.taken(len(x))
        sites = [site for site, size in zip(self.sites, sizes, strict=True) if size]
        if len(sites) == 1:
            alone: Tensor = sites[0](x, frozen)
            return alone
        return nested(sites, x, [size for size in sizes if size], frozen)


Part = Callable[[Tensor, Frozen], Tensor]  # a site


def nested(sites: Sequence[Part], x: Tensor, sizes: Sequence[int], frozen: Frozen) -> Tensor:
    """Call each site from within the one before it, so that all wait for the same product.

    A site has a part before and a part after the frozen target, in one function. The first site
    comes to the target and enters the second there, and so on; the last computes the target for
    all rows, and on the way back each goes on with its own.

        site 0: before ─┐                                            ┌─ after
        site 1:         └ before ─┐                        ┌─ after ─┘
        site 2:                   └ before ─ frozen(all) ─ after
    """
    parts = torch.split(x, list(sizes))
    inputs: list[Tensor] = []
    frozen_parts: list[Tensor] = []
    outputs: list[Tensor] = []  # the last site's first

    def enter(at: int) -> None:
        def target(own: Tensor) -> Tensor:
            inputs.append(own)
            if at + 1 < len(sites):
                enter(at + 1)
            else:
                untouched = all(a is b for a, b in zip(inputs, parts, strict=True))
                whole = frozen(x if untouched else torch.cat(inputs))
                frozen_parts.extend(torch.split(whole, list(sizes)))
            return frozen_parts[at]

        outputs.append(sites[at](parts[at], target))

    enter(0)
    return torch.cat(outputs[::-1])


class Mixture(AdapterModule):
    """The modules of several tasks of one method, as if they were one module."""

    def __init__(self, members: Sequence[AdapterModule]) -> None:
        """Join modules that have the same targets."""
        paths, *others = [member.paths for member in members]
        assert all(other == paths for other in others), "members adapt different targets"
        seats = Seats(len(members))
        by_path = [member.by_path() for member in members]
        super().__init__({p: MixedSite([own[p] for own in by_path], seats) for p in paths})
        self.seats = seats
