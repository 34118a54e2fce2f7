"""Where the targets are, family by family: tables of module-path patterns. Knows no weight."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

Patterns = Mapping[str, re.Pattern[str]]


def _patterns(paths: Mapping[str, str]) -> Patterns:
    """`#` stands for a number; where there are two, they are stage and block."""
    return {r: re.compile(re.escape(p).replace(r"\#", r"(\d+)")) for r, p in paths.items()}


# family → role → module path of an nn.Linear.
FAMILIES: Final[Mapping[str, Patterns]] = MappingProxyType(
    {
        "vit": _patterns(
            {
                "qkv": "blocks.#.attn.qkv",
                "proj": "blocks.#.attn.proj",
                "fc1": "blocks.#.mlp.fc1",
                "fc2": "blocks.#.mlp.fc2",
            }
        ),
        "swin": _patterns(
            {
                "qkv": "layers.#.blocks.#.attn.qkv",
                "proj": "layers.#.blocks.#.attn.proj",
                "fc1": "layers.#.blocks.#.mlp.fc1",
                "fc2": "layers.#.blocks.#.mlp.fc2",
            }
        ),
        # fc1 and fc2 are the paper's pwconv1 and pwconv2.
        "convnext": _patterns(
            {"fc1": "stages.#.blocks.#.mlp.fc1", "fc2": "stages.#.blocks.#.mlp.fc2"}
        ),
        "mixer": _patterns(
            {
                "token_fc1": "blocks.#.mlp_tokens.fc1",
                "token_fc2": "blocks.#.mlp_tokens.fc2",
                "fc1": "blocks.#.mlp_channels.fc1",
                "fc2": "blocks.#.mlp_channels.fc2",
            }
        ),
    }
)

# family → role → module path of a LayerNorm or Conv2d, on whose output affine terms may sit.
AFFINES: Final[Mapping[str, Patterns]] = MappingProxyType(
    {
        "vit": _patterns(
            {
                "patch": "patch_embed.proj",
                "norm1": "blocks.#.norm1",
                "norm2": "blocks.#.norm2",
                "norm": "norm",
                "fc_norm": "fc_norm",
            }
        ),
    }
)

# family → placement → roles, for methods that act in front of a target, right behind a LayerNorm.
# "attention" means: in front of what mixes tokens. ConvNeXt mixes them by a depth-wise
# convolution, into which nothing folds.
IN_FRONT: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "vit": {"attention": ("qkv",), "both": ("qkv", "fc1")},
        "swin": {"attention": ("qkv",), "both": ("qkv", "fc1")},
        "convnext": {"both": ("fc1",)},
        "mixer": {"attention": ("token_fc1",), "both": ("token_fc1", "fc1")},
    }
)

# timm's class of the network → family; a class that is not here is refused.
CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "VisionTransformer": "vit",
        "VisionTransformerDistilled": "vit",
        "SwinTransformer": "swin",
        "ConvNeXt": "convnext",
        "MlpMixer": "mixer",
    }
)


def role_of(patterns: Patterns, path: str) -> tuple[str, tuple[int, ...]] | None:
    """(role, numbers in the path) of a module path, or None when no adapter acts there."""
    for role, pattern in patterns.items():
        if match := pattern.fullmatch(path):
            return role, tuple(map(int, match.groups()))
    return None
