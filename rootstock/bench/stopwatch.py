"""How long the steps of a training run take. Knows no method."""

import time

import torch

from training.watch import Watch


class Stopwatch:
    """From the end of a run's first step to the end of its last: to be given to the trainer.

    What is allocated and compiled once is paid in the first step.
    """

    def __init__(self, device: torch.device) -> None:
        self.watch = Watch(on_step=self.step)
        self.seconds = 0.0
        self._device, self._began = device, 0.0

    def step(self, done: int, of: int) -> None:
        """So many steps of so many are done; the device is waited for where it counts."""
        if done not in (1, of):
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if done == 1:
            self._began = now
        self.seconds = now - self._began
