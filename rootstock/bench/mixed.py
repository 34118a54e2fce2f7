"""The mixed lane against the bare backbone, and against other ways to serve many tasks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adapters_store import plain
from adapters_store.adapter import Adapter
from rootstock.bench.adapters import LABELS, Choice, noise
from rootstock.bench.forms import CHUNK, bound, fitting, forms, winner
from rootstock.bench.proof import Logits, hold
from rootstock.bench.rivals import RivalMissingError, WholeModels, in_chunks, peft_mixed
from rootstock.bench.setting import Row, Setting, Tell, timing
from rootstock.bench.turns import Spread, Turn, speed, take_turns, times

SYSTEMS: Final = ("mixed", "peft", "swap", "full")
_HEADS: Final = (LABELS, 37, 100, 5)  # labels of one task and the next: never of one size
_CHECKED: Final = 32  # samples of a batch that are held against the plain path
_ALONE: Final = 4  # of those, run alone too

Arm = Callable[[], Logits]


@dataclass(frozen=True, slots=True)
class Mixture:
    """A batch: pictures, adapters, and which of them each sample wants."""

    method: str
    pixels: NDArray[np.uint8]
    adapters: Sequence[Adapter]
    wanted: Sequence[int]

    @classmethod
    def random(cls, setting: Setting, choice: Choice, batch: int, distinct: int) -> "Mixture":
        """Every adapter equally often, in random order.

        Raises:
            ValueError: the method has no place on the backbone.
        """
        adapters = [
            setting.maker.make(
                choice.method,
                f"task-{i}",
                i,
                options=choice.options,
                labels=_HEADS[i % len(_HEADS)],
                effect=False,
            )
            for i in range(distinct)
        ]
        wanted = np.random.default_rng(batch).permutation(batch) % distinct
        return cls(choice.name, noise(setting.backbone.spec, batch), adapters, wanted.tolist())

    def plain(self, setting: Setting) -> list[NDArray[np.float32]]:
        """What the first samples must get, by the slow and obvious path, in float32."""
        answers: dict[int, NDArray[np.float32]] = {}
        first = range(min(len(self.wanted), _CHECKED))
        for number, adapter in enumerate(self.adapters):
            if mine := [i for i in first if self.wanted[i] == number]:
                rows = plain.logits(setting.backbone, adapter, self.pixels[mine])
                answers.update(zip(mine, rows, strict=True))
        return [answers[i] for i in first]


def measure(
    setting: Setting,
    methods: Sequence[Choice],
    batches: Sequence[int],
    distincts: Sequence[int],
    systems: Sequence[str],
    rounds: int,
    *,
    compiled: bool,
    busy: bool,
    tell: Tell,
) -> Iterator[Row]:
    """First the bare forms, then every method against the fastest of them.

    Args:
        setting: where.
        methods: measured one by one.
        batches: samples in a batch.
        distincts: tasks in a batch; 0 means as many as samples.
        systems: of SYSTEMS; whole models and PEFT only where every sample is another task's.
        rounds: turns of each arm.
        compiled: whether the bare backbone is also tried compiled.
        busy: what rows tell of other processes; the caller sees to them.
        tell: told what is being done and what had to be left out.

    Raises:
        WrongAnswerError: an arm's answers are not the plain path's.
    """
    head = setting.maker.make("linear", "bare", 0, effect=False)
    found = forms(setting, head, compiled, tell)
    tried = {"compiled": "compiled" in found}  # not where the compiler failed
    for batch in batches:
        pixels = noise(setting.backbone.spec, batch)
        setting.tune(batch)
        tell.doing(f"bare forms, batch {batch}")
        turns = _proven(
            {n: bound(f, pixels) for n, f in fitting(found, batch).items()},
            list(plain.logits(setting.backbone, head, pixels[:_CHECKED])),
            setting.dtype,
            rounds,
        )
        best = winner(turns)
        for form, mine in turns.items():
            yield setting.row(
                "mixed",
                "bare",
                "linear",
                batch=batch,
                distinct=1,
                ratio=speed(turns[best], mine),
                runs=rounds,
                form=form,
                reference=form == best,
                against_timm=round(speed(turns["timm"], mine).median, 4),
                busy=busy,
                **tried,
                **timing(Spread.of(times(mine)), batch),
            )
        for choice in methods:
            for distinct in dict.fromkeys(min(d or batch, batch) for d in distincts):
                tell.doing(f"{choice.name}, batch {batch}, {distinct} distinct")
                mixture = Mixture.random(setting, choice, batch, distinct)
                whole = distinct == batch or len(distincts) == 1
                chosen = [s for s in systems if s == "mixed" or whole]
                arms = _arms(setting, mixture, chosen, tell)
                check_alone(setting, mixture)
                arms["bare"] = bound(found[best], mixture.pixels)
                yield from _rows(setting, mixture, arms, rounds, reference=best, busy=busy, **tried)


def check_alone(setting: Setting, mixture: Mixture) -> None:
    """A sample's answer must not depend on who shares its batch.

    Raises:
        WrongAnswerError
    """
    slots = [setting.placed(a) for a in mixture.adapters]
    among = setting.engine.run(mixture.pixels, [slots[w] for w in mixture.wanted])[:_ALONE]
    alone = [
        setting.engine.run(mixture.pixels[i : i + 1], [slots[mixture.wanted[i]]])[0]
        for i in range(len(among))
    ]
    hold(f"mixed {mixture.method} in a batch", among, "the same sample alone", alone, setting.dtype)


def _arms(setting: Setting, mixture: Mixture, systems: Sequence[str], tell: Tell) -> dict[str, Arm]:
    """What can run here; what cannot is told."""
    arms: dict[str, Arm] = {}
    pixels, wanted = mixture.pixels, mixture.wanted
    if "mixed" in systems:
        slots = [setting.placed(a) for a in mixture.adapters]
        samples = [slots[w] for w in wanted]
        arms["mixed"] = lambda: setting.engine.run(pixels, samples)
    if "peft" in systems and mixture.method.startswith("lora"):
        try:
            mixed = peft_mixed(setting, mixture.adapters)
            arms["peft"] = lambda: mixed(pixels, wanted)
            if len(wanted) > CHUNK:
                arms[f"peft/{CHUNK}"] = lambda: in_chunks(mixed, CHUNK)(pixels, wanted)
        except RivalMissingError as error:
            tell.note(str(error))
    if {"swap", "full"} & set(systems):
        try:
            models = WholeModels(setting, mixture.adapters)
        except RivalMissingError as error:
            tell.note(str(error))
        else:
            both: Mapping[str, Arm] = {
                "swap": lambda: models.swap(pixels, wanted),
                "full": lambda: models.full(pixels, wanted),
            }
            arms |= {name: arm for name, arm in both.items() if name in systems}
    return arms


def _rows(
    setting: Setting,
    mixture: Mixture,
    arms: Mapping[str, Arm],
    rounds: int,
    *,
    reference: str,
    busy: bool,
    compiled: bool,
) -> Iterator[Row]:
    adapted = {name: arm for name, arm in arms.items() if name != "bare"}
    wanted = mixture.plain(setting)
    for name, arm in adapted.items():
        first = list(arm())[: len(wanted)]
        hold(f"{name} {mixture.method}", first, "the plain path", wanted, setting.dtype)
    turns = _proven(arms, None, setting.dtype, rounds)
    peft = _fastest_peft(turns)
    for name in adapted:
        if name.startswith("peft") and name != peft:
            continue
        mine = turns[name]
        gap = hold(
            f"{name} {mixture.method} after timing",
            list(mine[-1].result)[: len(wanted)],
            "the plain path",
            wanted,
            setting.dtype,
        )
        more: Row = {}
        if name == "mixed" and peft is not None:
            more = {"against_peft": round(speed(turns[peft], mine).median, 4)}
        elif name == peft:
            more = {"form": name}
        yield setting.row(
            "mixed",
            name.partition("/")[0],
            mixture.method,
            batch=len(mixture.wanted),
            distinct=len(mixture.adapters),
            ratio=speed(turns["bare"], mine),
            runs=rounds,
            reference=reference,
            against_plain=float(f"{gap:.3g}"),
            busy=busy,
            compiled=compiled,
            **more,
            **timing(Spread.of(times(mine)), len(mixture.wanted)),
        )


def _fastest_peft(turns: Mapping[str, Sequence[Turn[Logits]]]) -> str | None:
    """Of its forms the one that counts: whole batches, or chunks."""
    forms = [name for name in turns if name.startswith("peft")]
    return max(forms, key=lambda n: speed(turns["bare"], turns[n]).median, default=None)


def _proven(
    arms: Mapping[str, Callable[[], Logits]],
    wanted: Logits | None,
    dtype: str,
    rounds: int,
) -> dict[str, list[Turn[Logits]]]:
    """Turns of arms that answer as they should before the first and after the last."""
    for name, arm in arms.items():
        answers = arm()
        if wanted is not None:
            hold(name, list(answers)[: len(wanted)], "the plain path", wanted, dtype)
    turns = take_turns(arms, rounds)
    for name, mine in turns.items():
        hold(f"{name}'s last round", mine[-1].result, "its first", mine[0].result, dtype)
    return turns
