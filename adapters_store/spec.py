"""What a backbone looks like to an adapter: targets and their shapes. Knows no weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from adapters_store.families import IN_FRONT
from adapters_store.manifest import BackboneRef, Preprocess

Statistics = tuple[float, float, float]  # of inputs in [0, 1], a number a colour
Normalisation = Literal["backbone", "imagenet", "half", "none"]

# name → mean and std; "backbone" is as its weights were trained, and not in the table.
NAMED: Final[Mapping[str, tuple[Statistics, Statistics]]] = MappingProxyType(
    {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # inputs between -1 and 1
        "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # inputs stay between 0 and 1
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One module that an adapter may change: an `nn.Linear`, or one where only affine terms sit."""

    path: str  # module path in the timm network: blocks.0.attn.qkv
    role: str  # what it does in its block: qkv, proj, fc1, fc2, …
    block: int  # position of the block, counted from the input
    outputs: int  # rows of the weight; channels, where only affine terms sit
    inputs: int  # columns of the weight; 0 where only affine terms sit
    bias: bool  # without one, no affine shift may be folded in
    stage: int = 0  # of a network whose widths grow stage by stage
    heads: int = 0  # of the attention that a qkv projection feeds


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """The shape of one backbone, enough to validate an adapter made for it."""

    ref: BackboneRef
    family: str
    input_size: tuple[int, int]  # height, width in pixels
    features: int  # width of the vector that heads read
    mean: Statistics  # as the weights were trained
    std: Statistics
    interpolation: str
    crop_pct: float  # of the data config; used by geometry "timm" alone
    targets: tuple[Target, ...]  # every nn.Linear of the family's map, in the network's order
    affines: tuple[Target, ...] = ()  # LayerNorms and convolutions that take affine terms
    classifiers: tuple[str, ...] = ("head",)  # module path of timm's own classifier

    def of_role(self, *roles: str) -> tuple[Target, ...]:
        """The targets of these roles, in the order of the network."""
        return tuple(t for t in self.targets if t.role in roles)

    def by_path(self) -> Mapping[str, Target]:
        """Everything that an adapter may change, by module path."""
        return {t.path: t for t in (*self.targets, *self.affines)}

    def in_front(self, placement: str) -> tuple[Target, ...]:
        """The targets of a placement in front of them: "attention" or "both".

        Raises:
            ValueError: the family has no such place.
        """
        roles = IN_FRONT[self.family].get(placement)
        if roles is None:
            raise ValueError(f"{self.family} backbones have no place {placement!r}")
        return self.of_role(*roles)

    def preprocess(
        self, geometry: str = "squash", normalise: Normalisation = "backbone"
    ) -> Preprocess:
        """The preprocessing that an adapter for this backbone gets unless it asks for another."""
        mean, std = (self.mean, self.std) if normalise == "backbone" else NAMED[normalise]
        return Preprocess(
            size=self.input_size,
            geometry="timm" if geometry == "timm" else "squash",
            interpolation="bilinear" if self.interpolation == "bilinear" else "bicubic",
            crop_pct=self.crop_pct if geometry == "timm" else 1.0,
            mean=mean,
            std=std,
        )
