"""The manifest: everything an adapter says of itself. Knows no tensor, no file and no store."""

import json
import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

FORMAT: Final = 1
LABELS_MAX: Final = 50_000

# Python's `$` also matches before a final newline, so the pattern is always used with fullmatch.
TASK_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")

TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Triple = tuple[float, float, float]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]


# What `timm.create_model` may be given beside the name: the network's shape and nothing else.
Shape = Literal["img_size", "patch_size", "embed_dim", "depth", "num_heads", "window_size"]


class _Value(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, regex_engine="rust-regex"
    )


class BackboneRef(_Value):
    """Which frozen network: a timm name, what `create_model` was given, and the weights' digest."""

    # A plain timm name: no hub path, no folder. An artifact must not choose what is downloaded.
    name: str = Field(max_length=200, pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)?$")
    kwargs: dict[Shape, Annotated[int, Field(ge=0, le=16_384)]] = {}
    digest: Hex


class Preprocess(_Value):
    """How a picture becomes the network's input."""

    size: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]]
    geometry: Literal["squash", "timm"] = "squash"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 1.0
    mean: Triple  # of values in [0, 1]
    std: tuple[
        Annotated[float, Field(gt=0)],
        Annotated[float, Field(gt=0)],
        Annotated[float, Field(gt=0)],
    ]


class Provenance(_Value):
    """Where the adapter comes from. Nothing here varies between identical runs."""

    data: str = ""  # digest of the training images and labels
    seed: int = 0
    recipe: dict[str, bool | int | float | str] = {}
    versions: dict[str, str] = {}


class Effect(_Value):
    """What the golden images gave when the adapter was exported, in fp32."""

    golden: Literal[1] = 1  # which set of golden images
    logits: tuple[tuple[float, ...], ...]


class Manifest(_Value):
    """What one adapter is, minus its tensors. The seal is added and checked by the artifact."""

    format: Literal[1] = FORMAT
    task: TaskName
    method: str = Field(min_length=1, max_length=40)
    options: dict[str, Any] = {}  # of the method; validated by the method's own model
    backbone: BackboneRef
    preprocess: Preprocess
    labels: tuple[Label, ...] = Field(min_length=1, max_length=LABELS_MAX)
    metrics: dict[str, float] = {}
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
