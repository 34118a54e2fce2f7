"""An adapter in memory: a manifest and numpy arrays. Knows neither bytes nor torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.manifest import Manifest

HEAD_WEIGHT = "head.weight"
HEAD_BIAS = "head.bias"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The tensors of one method for all targets of one task, plus its head and manifest."""

    manifest: Manifest
    tensors: Mapping[str, NDArray[Any]]  # "<target>.<factor>", "shared.<factor>", "head.*"

    @property
    def factors(self) -> dict[str, NDArray[Any]]:
        """The method's own tensors, the head left out."""
        return {k: v for k, v in self.tensors.items() if not k.startswith("head.")}

    @property
    def head_weight(self) -> NDArray[np.float32]:
        """Classifier rows, one a label: [labels, features]."""
        return self.tensors[HEAD_WEIGHT]

    @property
    def head_bias(self) -> NDArray[np.float32]:
        """Classifier bias: [labels]."""
        return self.tensors[HEAD_BIAS]

    @property
    def factor_bytes(self) -> int:
        """Bytes of the method's own tensors, the head excluded."""
        return sum(int(t.nbytes) for t in self.factors.values())
