"""The manifest: everything an adapter says of itself. Knows no tensor, no file and no store."""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    model_validator,
)

FORMAT: Final = 1
LABELS_MAX: Final = 50_000
TEXT_MAX: Final = 200  # characters
_BAD_SHOWN: Final = 20  # labels
_OPTION_DEPTH: Final = 4

# Python's `$` also matches before a final newline, so the pattern is always used with fullmatch.
TASK_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")

BACKBONE_NAME: Final = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")

TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _printable(text: str) -> str:
    # It ends up on terminals and in logs, where an escape sequence would do as it says.
    if not text.isprintable():
        raise ValueError("it holds characters that cannot be printed")
    return text


def _modest(value: Any, depth: int = 0) -> Any:
    """Any JSON that is not nested deep and whose texts are printable."""
    if depth > _OPTION_DEPTH:
        raise ValueError("it is nested too deep")
    if isinstance(value, str):
        if len(value) > TEXT_MAX:
            raise ValueError(f"it holds a text of more than {TEXT_MAX} characters")
        _printable(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _modest(key, depth + 1)
            _modest(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _modest(inner, depth + 1)
    elif not isinstance(value, bool | int | float | None):
        raise ValueError("it is no JSON")  # noqa: TRY004 (pydantic collects ValueErrors alone)
    return value


def _named(labels: tuple[str, ...]) -> tuple[str, ...]:
    # One fault for all of them: there may be 50 000.
    bad = [
        i
        for i, label in enumerate(labels)
        if not 0 < len(label) <= TEXT_MAX or not label.isprintable()
    ]
    if bad:
        listed = ", ".join(map(str, bad[:_BAD_SHOWN]))
        more = f" and {len(bad) - _BAD_SHOWN} more" if len(bad) > _BAD_SHOWN else ""
        raise ValueError(f"those at {listed}{more} are not 1 to {TEXT_MAX} printable characters")
    if len(set(labels)) != len(labels):
        raise ValueError("two labels are the same")
    return labels


Text = Annotated[str, StringConstraints(max_length=TEXT_MAX), AfterValidator(_printable)]
Option = Annotated[Any, AfterValidator(_modest)]
Labels = Annotated[
    tuple[str, ...],
    Field(min_length=1, max_length=LABELS_MAX),
    FailFast(),
    AfterValidator(_named),
]
Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(ge=1e-3, le=1e3)]  # in float32 its inverse stays finite

# What `timm.create_model` may be given beside the name: the network's shape and nothing else.
Shape = Literal[
    "img_size", "patch_size", "embed_dim", "depth", "num_heads", "window_size",
    "depths", "dims",
]  # fmt: skip
Whole = Annotated[int, Field(strict=True)]
# `adapter verify` builds what an artifact names: a stranger's numbers must not exhaust the machine.
_SHAPE_RANGE: Final[Mapping[Shape, tuple[int, int]]] = MappingProxyType(
    {
        "img_size": (8, 1024),
        "patch_size": (2, 64),
        "embed_dim": (1, 2048),
        "depth": (1, 64),
        "num_heads": (1, 64),
        "window_size": (1, 64),
        "depths": (1, 64),  # one number a stage, as num_heads may be
        "dims": (1, 2048),
    }
)


class _Value(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, regex_engine="rust-regex"
    )


class BackboneRef(_Value):
    """Which frozen network: a timm name, what `create_model` was given, and the weights' digest."""

    # A plain timm name: no hub path, no folder. An artifact must not choose what is downloaded.
    name: str = Field(max_length=200, pattern=rf"^{BACKBONE_NAME.pattern}$")
    kwargs: dict[
        Shape, Whole | Annotated[tuple[Whole, ...], Field(min_length=1, max_length=8)]
    ] = {}
    digest: Hex

    @model_validator(mode="after")
    def _can_be_built(self) -> "BackboneRef":
        for key, value in self.kwargs.items():
            least, most = _SHAPE_RANGE[key]
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(least <= number <= most for number in numbers):
                raise ValueError(f"kwargs.{key} must be between {least} and {most}")
        return self


class Preprocess(_Value):
    """How a picture becomes the network's input."""

    size: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]]
    geometry: Literal["squash", "timm"] = "squash"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    # Pictures are enlarged by its inverse before they are cut.
    crop_pct: Annotated[float, Field(ge=0.25, le=1)] = 1.0
    mean: tuple[Mean, Mean, Mean]  # of values in [0, 1]
    std: tuple[Deviation, Deviation, Deviation]


class Provenance(_Value):
    """Where the adapter comes from. Nothing here varies between identical runs."""

    data: Text = ""  # digest of the training images and labels
    seed: int = 0
    recipe: dict[Text, Option] = {}  # and, under `protocol`, how its numbers were chosen
    versions: dict[Text, Text] = {}


# A row that is wrong is named by its first fault: there may be as many as labels.
Logits = Annotated[tuple[float, ...], Field(max_length=LABELS_MAX), FailFast()]


class Effect(_Value):
    """What the golden images gave when the adapter was exported, in fp32."""

    golden: Literal[1] = 1  # which set of golden images
    logits: Annotated[tuple[Logits, ...], Field(max_length=64), FailFast()]

    @model_validator(mode="after")
    def _is_a_table(self) -> "Effect":
        if len({len(row) for row in self.logits}) > 1:
            raise ValueError("logits have rows of several lengths")
        return self


class Manifest(_Value):
    """What one adapter is, minus its tensors. The seal is added and checked by the artifact."""

    format: Literal[1] = FORMAT
    task: TaskName
    method: Annotated[Text, StringConstraints(min_length=1, max_length=40)]
    options: dict[Text, Option] = {}  # of the method; validated by the method's own model
    backbone: BackboneRef
    preprocess: Preprocess
    labels: Labels
    metrics: dict[Text, float] = {}
    provenance: Provenance = Provenance()
    effect: Effect | None = None


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: the value holds NaN or an infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
