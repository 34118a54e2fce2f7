"""The plain path in a thread that makes way for others. Knows no store, no queue and no policy."""

import copy
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

from adapters_store import plain
from adapters_store.adapter import Adapter
from adapters_store.backbone import Backbone
from adapters_store.methods.table import lower


class Plainly:
    """One adapter on the pristine weights, on one core of the CPU; for one thread."""

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        pause: Callable[[], None],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Put the adapter's normal form, unmerged, on a twin of the network.

        Args:
            backbone: pristine fp32 weights, which stay as they are.
            adapter: admitted for it.
            pause: called before every operation; returns when it may be done, or raises.
            dtype: to compute in; any but fp32 takes a copy of all weights.
        """
        self.adapter, self._pause = adapter, _Pausing(pause)
        with self._pause:
            exact = dtype == torch.float32
            net = backbone.net if exact else copy.deepcopy(backbone.net).to(dtype)
            form = {p: f.to(dtype) for p, f in lower(adapter, backbone.spec).items()}
            self._net: nn.Module = plain.formed(net, form)

    def logits(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the adapter answers: uint8 [B, 3, H, W] → float32 [B, labels], one at a time."""
        with self._pause:
            return plain.answers(self._net, self.adapter, pictures)


class _Pausing(TorchFunctionMode):
    """Asks before each operation of torch that this thread begins."""

    def __init__(self, pause: Callable[[], None]) -> None:
        super().__init__()
        self._pause = pause

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self._pause()
        return func(*args, **(kwargs or {}))


def on_one_core() -> None:
    """Operations that the calling thread begins are done by it alone.

    Torch keeps the last number that any thread told it for threads yet to be born. So a thread
    that ends at once tells it the one before again.
    """
    others = torch.get_num_threads()
    torch.set_num_threads(1)
    telling = threading.Thread(target=torch.set_num_threads, args=(others,))
    telling.start()
    telling.join()
