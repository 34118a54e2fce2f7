"""What papers searched, method by method: values that are worth a sweep. Knows no run.

From methods.md; a method that is missing has no published grid. Values are options of the method
or fields of the recipe, and any other may be swept as well.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

Grid = Mapping[str, tuple[float, ...]]

_DECADES: Final = (0.01, 0.1, 1.0, 10.0, 100.0)

GRIDS: Final[Mapping[str, Grid]] = MappingProxyType(
    {
        "alore": {  # §3.3, §3.6: inferred from RepAdapter, whose merge it copies
            "scale": (0.1, 0.5, 1.0, 5.0, 10.0),
            "lr": (5e-4, 1e-3, 5e-3, 1e-2),
            "weight_decay": (0.0, 1e-4, 1e-2, 5e-2),
        },
        "lora": {"scale": _DECADES},  # §7.1, as the Binary Adapter's code has it
        "clora": {  # §4.2
            "scale": (0.1, 1.0, 10.0),
            "spaces": (2, 4, 6, 8, 10),
            "sade": (0.0, 1e-4, 1e-3, 1e-2, 1e-1),
            "lr": (1e-3, 5e-3, 1e-2),
            "weight_decay": (0.0, 1e-4, 1e-2),
        },
        "heart_lora": {"scale": _DECADES, "heads_off": (0, 2, 4, 6, 8)},  # §5.1, §5.3
        "bi_lora": {"scale": _DECADES},  # §7.1
        "repadapter": {"scale": (0.1, 0.5, 1.0, 5.0, 10.0)},  # §7.3
        "fact_tt": {"scale": _DECADES, "rank": (4, 8, 16)},  # §7.4, §11
        "fact_tk": {"scale": _DECADES, "rank": (8, 16, 32)},
        "ssf": {  # §11: what was chosen somewhere
            "lr": (1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 5e-2),
            "weight_decay": (5e-5, 5e-2),
            "drop_path": (0.0, 0.1, 0.2),
        },
        "full": {  # §7.10: VPT's
            "lr": (1e-4, 5e-4, 1e-3, 5e-3),
            "weight_decay": (0.0, 1e-4, 1e-3, 1e-2),
        },
    }
)
