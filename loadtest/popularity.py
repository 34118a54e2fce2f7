"""Which task each request wants: laws of popularity, draws, how many tasks they amount to.

Pure. "Zipf 1.5" of Punica and SGLang is `geometric`; alpha of S-LoRA is `power`: 1 is uniform.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadtest.scenario import Popularity

Odds = NDArray[np.float64]  # [tasks], sums to 1; of ranks, the most popular first
Tasks = NDArray[np.int32]

_TRIES: Final = 64


def odds(popularity: Popularity, tasks: int) -> Odds:
    """The probability of every rank."""
    rank = np.arange(1, tasks + 1, dtype=np.float64)
    match popularity.kind:
        case "zipf":
            weights = rank**-popularity.s
        case "geometric":
            weights = np.exp(-np.log(popularity.ratio) * (rank - 1))
        case "power":
            weights = np.diff((np.arange(tasks + 1) / tasks) ** popularity.alpha)
        case "hot":
            hot = min(popularity.hot, tasks)
            share = popularity.hot_share if hot < tasks else 1.0
            cold = (1.0 - share) / max(tasks - hot, 1)
            weights = np.where(rank <= hot, share / hot, cold)
        case _:
            weights = np.ones(tasks)
    normal: Odds = weights / weights.sum()
    return normal


def effective(of: Odds) -> float:
    """The effective number of tasks: exp of the entropy. As many as there are if all are equal."""
    some = of[of > 0]
    return float(np.exp(-(some * np.log(some)).sum())) if some.size else 0.0


def draws(
    popularity: Popularity,
    tasks: int,
    at: NDArray[np.float64],
    fan_out: int,
    seed: np.random.SeedSequence,
) -> Tasks:
    """Tasks [requests, fan_out] for requests at `at` seconds; those of a row are different.

    Ranks are dealt to tasks by the seed, and anew every `drift_s`.
    """
    dealing, drawing = seed.spawn(2)
    rng = np.random.default_rng(drawing)
    if popularity.kind == "round_robin":
        first = np.arange(len(at)) * fan_out
        return ((first[:, None] + np.arange(fan_out)) % tasks).astype(np.int32)
    ranks = _ranks(np.cumsum(odds(popularity, tasks)), len(at), fan_out, rng)
    if not popularity.drift_s:
        order = np.random.default_rng(dealing).permutation(tasks)
        return order[ranks].astype(np.int32)
    epochs = (at / popularity.drift_s).astype(np.int64)
    found = np.empty_like(ranks)
    for epoch in np.unique(epochs):
        child = np.random.SeedSequence(dealing.entropy, spawn_key=(*dealing.spawn_key, int(epoch)))
        mine = epochs == epoch
        found[mine] = np.random.default_rng(child).permutation(tasks)[ranks[mine]]
    return found.astype(np.int32)


def _ranks(
    cumulative: Odds, requests: int, fan_out: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    tasks = len(cumulative)
    if fan_out >= tasks > 1:
        return np.tile(np.arange(tasks), (requests, 1))

    def drawn(count: int) -> NDArray[np.int64]:
        found = np.searchsorted(cumulative, rng.random((count, fan_out)), side="right")
        return np.minimum(found, tasks - 1).astype(np.int64)

    ranks = drawn(requests)
    for _ in range(_TRIES if fan_out > 1 else 0):
        ordered = np.sort(ranks, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
        if not twice.any():
            return ranks
        ranks[twice] = drawn(int(twice.sum()))
    if fan_out > 1:  # a law so steep that chance does not find enough different tasks
        for row in ranks:
            _complete(row, tasks)
    return ranks


def _complete(row: NDArray[np.int64], tasks: int) -> None:
    """Replace what is twice by the most popular tasks that are missing."""
    seen: set[int] = set()
    missing = (rank for rank in range(tasks) if rank not in row)
    for i, rank in enumerate(row.tolist()):
        if rank in seen:
            row[i] = next(missing)
        seen.add(int(row[i]))
