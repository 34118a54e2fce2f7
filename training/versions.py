"""Which software computed an adapter. Knows no adapter."""

from importlib.metadata import PackageNotFoundError, version

import timm
import torch


def versions() -> dict[str, str]:
    """Of what computed the adapter."""
    try:
        own = version("rootstock")
    except PackageNotFoundError:  # run from a source tree that is not installed
        own = "source"
    return {"rootstock": own, "timm": timm.__version__, "torch": torch.__version__}
