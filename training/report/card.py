"""The model card: what a person should know before using an adapter, as Markdown. Pure.

Its sections are those that model cards have by custom (Mitchell et al., 2019), as far as a training
run can know them; what only people know is left for them to add.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, Final

from training.report.facts import Facts
from training.report.measures import calibration_error, confusion, interval

_CLASSES_MOST: Final = 30  # listed one by one; of more, those that do worst
_SKIPPED_MOST: Final = 20
_ESCAPED: Final = "\\`*_{}[]<>#|!~"
_WORDS: Final = {"train": "training", "val": "validation", "test": "test"}


def card(facts: Facts) -> str:
    """The whole card, ending in a newline."""
    parts = (
        [f"# {_text(facts.task)}: {_text(facts.method)} on {_text(facts.backbone['name'])}"],
        _lead(facts),
        ["## Accuracy", *_accuracy(facts)],
        ["![learning curves](curves.png)", "![confusion matrix](confusion.png)"],
        ["## Classes", *_classes(facts)],
        ["## How it was made", *_made(facts)],
        ["## Data", *_data(facts)],
        ["## Intended use and limits", *_limits(facts)],
        ["![the worst mistakes](mistakes.png)"],
    )
    return "\n\n".join(line for part in parts for line in part) + "\n"


def percent(share: float) -> str:
    """0.9312 → `93.12 %`."""
    return f"{100 * share:.2f} %"


def _lead(facts: Facts) -> list[str]:
    kind = (
        "A whole network, every weight of it trained"
        if facts.method == "full"
        else "An adapter of Rootstock"
    )
    return [
        (
            f"{kind}: tells {len(facts.classes)} classes apart. "
            f"{facts.parameters:,} trained numbers beside the head, {facts.bytes:,} bytes."
        ),
        f"File `{facts.file}`, sha256 `{facts.digest}`.",
    ]


def _accuracy(facts: Facts) -> list[str]:
    answers = facts.answers
    count = len(answers.labels)
    low, high = interval(answers.correct, count)
    kind = _WORDS[answers.split]
    lines = [
        (
            f"**{percent(answers.correct / count)} of {count:,} {kind} images**; 95 % confidence "
            f"interval {percent(low)} to {percent(high)} (Wilson). "
            f"Expected calibration error {percent(calibration_error(answers))} (15 bins)."
        ),
    ]
    if answers.split != "test":
        lines.append(
            f"There were no test images. Accuracy on {kind} images flatters: "
            + (
                "settings may have been chosen on them."
                if answers.split == "val"
                else "the adapter has learnt them."
            )
        )
    if len(facts.tests) > 1:
        each = ", ".join(percent(share) for share in facts.tests)
        lines.append(
            f"Over {len(facts.tests)} seeds: {percent(mean(facts.tests))} ± "
            f"{100 * stdev(facts.tests):.2f} (mean and standard deviation of {each}). "
            "The file is of the first seed."
        )
    others = [(_WORDS.get(name, name), percent(v)) for name, v in facts.metrics.items()]
    lines.append(_table(("images", "accuracy"), others))
    return lines


def _classes(facts: Facts) -> list[str]:
    table = confusion(facts.answers)
    rows = []
    for at, name in enumerate(facts.classes):
        images, said = int(table[at].sum()), int(table[:, at].sum())
        right = int(table[at, at])
        recall = right / images if images else None
        rows.append((recall, _text(name), images, _share(right, images), _share(right, said)))
    head = ("class", "images", "found", "right when said")
    if len(rows) <= _CLASSES_MOST:
        return [_table(head, [row[1:] for row in rows])]
    asked = sorted((row for row in rows if row[0] is not None), key=lambda row: row[0] or 0.0)
    return [
        f"The {_CLASSES_MOST} of {len(rows)} classes that are found least:",
        _table(head, [row[1:] for row in asked[:_CLASSES_MOST]]),
    ]


def _made(facts: Facts) -> list[str]:
    lines = [_protocol(facts)]
    points = facts.protocol.get("points", ())
    if points:
        chosen = facts.protocol["chosen"]
        keys = [key for key in points[0] if key != "val_accuracy"]
        rows = [
            (
                *(_value(point[key]) for key in keys),
                "diverged" if (val := point["val_accuracy"]) is None else percent(val),
                "chosen" if at == chosen else "",
            )
            for at, point in enumerate(points)
        ]
        lines.append(_table((*map(_text, keys), "validation accuracy", ""), rows))
    lines.append(
        _table(
            ("setting", "value"),
            [
                ("method", _text(facts.method)),
                *((_text(key), _value(value)) for key, value in facts.options.items()),
                *((_text(key), _value(value)) for key, value in facts.recipe.items()),
                ("backbone", f"`{facts.backbone['name']}` {_value(facts.backbone['kwargs'])}"),
                ("backbone weights", f"sha256 `{facts.backbone['digest']}`"),
                *((f"input {_text(key)}", _value(v)) for key, v in facts.preprocess.items()),
                *((_text(key), _text(value)) for key, value in facts.versions.items()),
            ],
        )
    )
    return lines


def _protocol(facts: Facts) -> str:
    found = facts.protocol
    if not found:
        tuned = "" if "val" not in facts.sizes else " Validation images were looked at, not learnt."
        return (
            f"Settings were given, none was searched. Trained on the training images.{tuned} "
            "The last epoch was kept; test images were answered once, by the file as it is."
        )
    searched = (
        f"{len(found['points'])} settings were tried with seed {found['search_seed']} and "
        "chosen by the validation accuracy of the last epoch; no test image was read meanwhile. "
        if found.get("points")
        else "Settings were given, none was searched. "
    )
    seeds = ", ".join(map(str, found["seeds"]))
    both = found["trained_on"] == "train+val"
    images = "training and validation images together" if both else "the training images"
    return (
        f"{searched}Then trained on {images}, seed {seeds}; the last epoch was kept; "
        " test images were answered once by each, in the form that is served."
    )


def _data(facts: Facts) -> list[str]:
    sizes = [(_WORDS.get(name, name), f"{count:,}") for name, count in facts.sizes.items()]
    lines = [f"sha256 over images and labels `{facts.data}`.", _table(("split", "images"), sizes)]
    if facts.skipped:
        shown = [f"- {_text(line)}" for line in facts.skipped[:_SKIPPED_MOST]]
        if len(facts.skipped) > len(shown):
            shown.append(f"- … and {len(facts.skipped) - len(shown)} more")
        lines += [f"{len(facts.skipped)} files were left out:", "\n".join(shown)]
    return lines


def _limits(facts: Facts) -> list[str]:
    answers = facts.answers
    low, high = interval(answers.correct, len(answers.labels))
    lines = [
        (
            "- For images like those above, of these classes. It cannot say “none of these”: "
            "whatever it is shown, one of its classes is named."
        ),
        (
            f"- The interval of {100 * (high - low):.1f} points is for other images from the same "
            "source. For other cameras, places or times, measure anew: `rootstock evaluate`."
        ),
        (
            f"- Probabilities are off by {percent(calibration_error(answers))} on average; "
            "thresholds on them need images of their own."
        ),
        "- It sees what its backbone sees, and shares that network's licence, biases and gaps.",
    ]
    few = [
        name
        for name, count in zip(facts.classes, confusion(answers).sum(1), strict=True)
        if count < 10
    ]
    if few:
        names = ", ".join(_text(name) for name in few[:10])
        more = f" and {len(few) - 10} more" if len(few) > 10 else ""
        lines.append(f"- Fewer than 10 images measure each of: {names}{more}.")
    return ["\n".join(lines)]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in lines)


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "–"


def _value(value: Any) -> str:
    plain = dict(value) if isinstance(value, Mapping) else value
    return _text(value if isinstance(value, str) else json.dumps(plain, default=str))


def _text(text: str) -> str:
    """A stranger's words, so that Markdown takes them for words."""
    return "".join(f"\\{c}" if c in _ESCAPED else c for c in text)
