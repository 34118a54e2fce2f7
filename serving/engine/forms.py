"""In what form a batch is computed: how many threads share it, in which pieces. Knows no tensor.

Which form is fastest differs between processors, networks and batch sizes: pieces that fit a cache
and threads that each compute a piece alone avoid barriers, and on a machine of few cores a barrier
waits for whoever else is using one. So forms are measured at start-up, not chosen here.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Form:
    """How a batch is computed."""

    workers: int = 1  # threads that each compute pieces alone; 1: all threads share each piece
    chunk: int = 0  # samples in a piece; 0: the whole batch
    attention: str = "explicit"  # see trunk.ATTENTION; other networks keep their own

    def pieces(self, groups: Sequence[Hashable]) -> list[list[int]]:
        """Which samples are computed together.

        Args:
            groups: of each sample; samples of different groups never share a piece.
        """
        members: dict[Hashable, list[int]] = {}
        for i, group in enumerate(groups):
            members.setdefault(group, []).append(i)
        found = []
        for indices in members.values():
            size = self.chunk or len(indices)
            if self.workers > 1:  # no worker idles while another has two samples
                size = min(size, -(-len(groups) // self.workers))
            found += [indices[i : i + size] for i in range(0, len(indices), size)]
        return found


OWN: Final = "own"  # the attention of a network that has no trunk
_CHUNKS: Final = (1, 2, 4, 8)


def usual(threads: int, attention: str) -> Form:
    """What is mostly fastest; for engines that were not calibrated."""
    return Form(threads, 4, attention)


def attentions(form: Form, known: Sequence[str]) -> list[Form]:
    """The same form with every kind of attention."""
    return [replace(form, attention=one) for one in known]


def candidates(threads: int, batch_max: int, attention: str) -> list[Form]:
    """Forms worth measuring."""
    forms = [Form(1, 0, attention)]
    forms += [Form(1, chunk, attention) for chunk in (4, 8) if chunk < batch_max]
    if threads > 1:
        fitting = [chunk for chunk in _CHUNKS if chunk * threads <= max(batch_max, threads)]
        forms += [Form(threads, chunk, attention) for chunk in fitting]
    return forms
