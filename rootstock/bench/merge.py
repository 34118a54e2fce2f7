"""The merged lane: what folding takes, whether it answers alike, when it pays."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from adapters_store.adapter import Adapter
from rootstock.bench.adapters import Choice, noise, pictures
from rootstock.bench.forms import bound, fastest, fitting, forms
from rootstock.bench.mixed import Mixture
from rootstock.bench.proof import Logits, WrongAnswerError, hold
from rootstock.bench.setting import Row, Setting, Tell, timing
from rootstock.bench.turns import Spread, quotients, speed, take_turns, times

AGREEMENT: Final = 0.995  # of labels, of a trained adapter on real pictures
_FOLDS: Final = 5
_LARGEST: Final = 64  # samples of a batch in which parity is looked for

Arm = Callable[[], Logits]


def measure(
    setting: Setting,
    choice: Choice,
    batch: int,
    rounds: int,
    images: int,
    folder: Path | None,
    own: Adapter | None,
    *,
    compiled: bool,
    tell: Tell,
) -> Iterator[Row]:
    """A row for folding with its parity, one for mixed and merged in a whole batch, break-even.

    Args:
        setting: where.
        choice: the method of adapters that are made for this.
        batch: samples in a batch.
        rounds: turns of each arm.
        images: on which merged and mixed are compared.
        folder: of real pictures; without one, noise.
        own: the adapter that is folded; without it, a random one.
        compiled: whether the bare backbone is also tried compiled.
        tell: told what is being done.

    Raises:
        WrongAnswerError: merged and mixed do not agree, or differ from the plain path.
    """
    seen = pictures(setting.backbone.spec, folder, images)
    setting.tune(batch)
    mixture = Mixture.random(setting, choice, batch, 1)
    if own is not None:
        mixture = replace(mixture, method=own.manifest.method, adapters=(own,))
    (adapter,) = mixture.adapters
    engine, slot = setting.engine, setting.placed(adapter)
    tell.doing(f"folding {mixture.method}")
    turns = take_turns({"fold": lambda: engine.fold(adapter)}, _FOLDS)["fold"]
    folded = turns[-1].result
    tell.doing("comparing merged with mixed")
    strict = own is not None and folder is not None
    mixed, merged = (_answers(setting, seen, how) for how in (slot, folded))
    parity = _parity(mixed, merged, setting.dtype, strict=strict)
    yield setting.row(
        "merge",
        "merged",
        mixture.method,
        batch=1,
        distinct=1,
        ratio=None,
        runs=_FOLDS,
        stage="fold",
        bytes=folded.nbytes,
        pictures="noise" if folder is None else "folder",
        **parity,
        **timing(Spread.of(times(turns)), 1),
    )
    tell.doing(f"one task in a whole batch of {batch}")
    head = setting.maker.make("linear", "bare", 0, effect=False)
    found = fitting(forms(setting, head, compiled, tell), batch)
    tried = "compiled" in found  # not where the compiler failed
    best = fastest(found, mixture.pixels)
    arms: dict[str, Arm] = {
        "bare": bound(found[best], mixture.pixels),
        "mixed": lambda: engine.run(mixture.pixels, [slot] * batch),
        "merged": lambda: engine.run(mixture.pixels, [folded] * batch),
    }
    wanted = mixture.plain(setting)
    for name in ("mixed", "merged"):
        hold(name, list(arms[name]())[: len(wanted)], "the plain path", wanted, setting.dtype)
    took = take_turns(arms, rounds)
    for name, mine in took.items():
        hold(f"{name}'s last round", mine[-1].result, "its first", mine[0].result, setting.dtype)
        yield setting.row(
            "merge",
            name,
            "linear" if name == "bare" else mixture.method,
            batch=batch,
            distinct=1,
            ratio=speed(took["bare"], mine),
            runs=rounds,
            stage="whole batch",
            reference=best,
            compiled=tried,
            **timing(Spread.of(times(mine)), batch),
        )
    yield from _break_even(setting, choice, batch, rounds, tell)


def break_even(gains: Sequence[tuple[int, float]]) -> int | None:
    """The least number of samples from which on merging always pays; None: it never does."""
    found = None
    for samples, gain in sorted(gains, reverse=True):
        if gain < 1.0:
            break
        found = samples
    return found


def _answers(setting: Setting, seen: NDArray[np.uint8], how: Any) -> list[NDArray[np.float32]]:
    parts = [seen[at : at + _LARGEST] for at in range(0, len(seen), _LARGEST)]
    return [row for part in parts for row in setting.engine.run(part, [how] * len(part))]


def _parity(
    mixed: Sequence[NDArray[np.float32]],
    merged: Sequence[NDArray[np.float32]],
    dtype: str,
    *,
    strict: bool,
) -> Row:
    """How well two sets of answers agree.

    Labels are held to it only if strict: those of random heads are often decided by a hair.

    Raises:
        WrongAnswerError: not well enough.
    """
    distance = hold("merged", merged, "mixed", mixed, dtype)
    one, other = np.stack(mixed), np.stack(merged)
    same = float((one.argmax(1) == other.argmax(1)).mean())
    if strict and same < AGREEMENT:
        raise WrongAnswerError("merged", "mixed in its labels", 1 - same, 1 - AGREEMENT)
    scale = np.abs(one).max(axis=1)
    return {
        "images": len(mixed),
        "top1_agreement": round(same, 5),
        "largest_relative_difference": float(
            f"{(np.abs(one - other).max(axis=1) / scale).max():.3g}"
        ),
        "relative_l2": float(f"{distance:.3g}"),
    }


def _break_even(
    setting: Setting, choice: Choice, batch: int, rounds: int, tell: Tell
) -> Iterator[Row]:
    """A batch of many tasks in which one has 1, 2, 4, … samples: all mixed, or that one merged."""
    mixture = Mixture.random(setting, choice, batch, batch)
    engine, pixels = setting.engine, noise(setting.backbone.spec, batch)
    slots = [setting.placed(a) for a in mixture.adapters]
    folded = engine.fold(mixture.adapters[0])
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < batch] + [batch]
    rows, gains = [], []
    for samples in sizes:
        tell.doing(f"break-even: {samples} of {batch} samples want one task")
        among = [slots[0]] * samples + slots[samples:]
        apart = [folded] * samples + slots[samples:]
        arms: dict[str, Arm] = {
            "mixed": _run(engine, pixels, among),
            "merged": _run(engine, pixels, apart),
        }
        hold("merged", arms["merged"](), "mixed", arms["mixed"](), setting.dtype)
        turns = take_turns(arms, rounds)
        gain = Spread.of(quotients(times(turns["mixed"]), times(turns["merged"])))
        gains.append((samples, gain.median))
        rows.append((samples, gain, Spread.of(times(turns["merged"]))))
    pays = break_even(gains)
    for samples, gain, took in rows:
        yield setting.row(
            "merge",
            "merged",
            choice.name,
            batch=batch,
            distinct=batch - samples + 1,
            ratio=gain,
            ratio_to="all mixed",
            runs=rounds,
            stage="break-even",
            samples=samples,
            break_even=pays,
            **timing(took, batch),
        )


def _run(engine: Any, pixels: NDArray[np.uint8], how: Sequence[Any]) -> Arm:
    return lambda: engine.run(pixels, how)
