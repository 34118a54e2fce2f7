"""What happens when memory runs out. Knows no network and no image."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from training.errors import MemoryExhaustedError


@contextmanager
def within_memory(device: torch.device, batch: int) -> Iterator[None]:
    """Say what to lower where the device or the machine has no room for what is done inside.

    Raises:
        MemoryExhaustedError: an allocation of torch's or of numpy's failed.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise MemoryExhaustedError(device.type, batch) from None
    except MemoryError:
        raise MemoryExhaustedError("this machine", batch) from None
    except RuntimeError as error:
        # On the CPU torch has no class for it.
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise MemoryExhaustedError("this machine", batch) from None
