"""Where the targets are, family by family: a table of module-path patterns. Knows no weight."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# family → role → module path; the one group is the block's number.
FAMILIES: Final[Mapping[str, Mapping[str, re.Pattern[str]]]] = MappingProxyType(
    {
        "vit": {
            "qkv": re.compile(r"blocks\.(\d+)\.attn\.qkv"),
            "proj": re.compile(r"blocks\.(\d+)\.attn\.proj"),
            "fc1": re.compile(r"blocks\.(\d+)\.mlp\.fc1"),
            "fc2": re.compile(r"blocks\.(\d+)\.mlp\.fc2"),
        },
    }
)

# timm's class of the network → family; a class that is not here is refused.
CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {"VisionTransformer": "vit", "VisionTransformerDistilled": "vit"}
)


def role_of(family: str, path: str) -> tuple[str, int] | None:
    """(role, block) of a module path, or None when no adapter acts there."""
    for role, pattern in FAMILIES[family].items():
        if match := pattern.fullmatch(path):
            return role, int(match.group(1))
    return None
