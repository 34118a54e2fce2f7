"""How fast and how large training is: adapters, every weight, and PEFT. Knows no accuracy.

Arms take turns, some steps each; each arm's peak memory is measured in a process of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from rootstock.bench.adapters import Choice
from rootstock.bench.rivals import RivalMissingError
from rootstock.bench.setting import Row, Tell, public, timing
from rootstock.bench.trainees import SHAPES, Course, turn_of
from rootstock.bench.turns import Spread, quotients, take_turns
from rootstock.bench.weighing import weigh
from training.room import holding_freed

FULL: Final = "full"
_PEFT: Final = ("peft", "peft-plain")  # its layers in our loop, and in the loop its users write


def measure(
    name: str,
    weights: Path | None,
    course: Course,
    methods: Sequence[Choice],
    rounds: int,
    *,
    peft: bool,
    tell: Tell,
) -> Iterator[Row]:
    """A row for full fine-tuning, one a method, and one for PEFT where it has the method's shape.

    `ratio` is of images a second, to full fine-tuning, and `memory_ratio` of peak memory;
    `against_peft` is of images a second, to the faster of PEFT's two forms.

    Args:
        name: of the backbone, as the user gave it.
        weights: its file, if one was given.
        course: what an arm does in a turn.
        methods: measured together.
        rounds: turns of each arm.
        peft: whether PEFT takes part.
        tell: told what is being done and what had to be left out.

    Raises:
        WeighingError
    """
    who = _who(methods, peft=peft)
    arms = {}
    for arm, (system, choice) in list(who.items()):
        tell.doing(f"building {arm}")
        try:
            arms[arm] = turn_of(system, choice, course)
        except RivalMissingError as error:
            tell.note(str(error))
            del who[arm]
    tell.doing("first turns, which are not counted")
    for turn in arms.values():
        turn()
    tell.doing(f"{len(arms)} arms, {rounds} turns of {course.steps} steps each")
    with holding_freed():  # as training does
        turns = take_turns(arms, rounds)
    seconds = {arm: [turn.result for turn in taken] for arm, taken in turns.items()}
    place = {
        "backbone": name,
        "weights": None if weights is None else str(weights),
        "dtype": course.precision,
        "device": course.device.type,
        "threads": torch.get_num_threads(),
        "batch": course.batch,
    }
    peaks: dict[str, int] = {}
    for arm, (system, choice) in who.items():
        tell.doing(f"weighing {arm}")
        peaks[arm] = weigh(system, choice, place)
    for arm, (system, choice) in who.items():
        rival = _fastest(seconds, choice) if system == "rootstock" else None
        ratio = Spread.of(quotients(seconds[FULL], seconds[arm]))
        more: dict[str, Any] = {}
        if rival is not None:
            against = Spread.of(quotients(seconds[rival], seconds[arm]))
            more["against_peft"] = round(against.median, 4)
        yield {
            "bench": "train",
            "system": system,
            "method": FULL if choice is None else choice.name,
            "backbone": public(name),
            "dtype": course.precision,
            "device": course.device.type,
            "threads": torch.get_num_threads(),
            "batch": course.batch,
            "ratio": round(ratio.median, 4),
            "quartiles": [round(q, 4) for q in ratio.quartiles],
            "runs": rounds,
            "memory_ratio": round(peaks[arm] / peaks[FULL], 4),
            "peak_bytes": peaks[arm],
            **more,
            **timing(Spread.of(seconds[arm]), course.batch * course.steps),
        }


def _who(methods: Sequence[Choice], *, peft: bool) -> dict[str, tuple[str, Choice | None]]:
    """Arm → system and method, in the order of the rows."""
    who: dict[str, tuple[str, Choice | None]] = {FULL: (FULL, None)}
    for choice in methods:
        who[choice.name] = ("rootstock", choice)
        if peft and choice.method == "lora" and choice.options.get("variant") in SHAPES:
            who |= {f"{system} {choice.name}": (system, choice) for system in _PEFT}
    return who


def _fastest(seconds: Mapping[str, Sequence[float]], choice: Choice | None) -> str | None:
    """Of PEFT's forms of a method the one that counts."""
    forms = [f"{system} {choice.name}" for system in _PEFT] if choice is not None else []
    found = [form for form in forms if form in seconds]
    return min(found, key=lambda form: Spread.of(seconds[form]).median, default=None)
