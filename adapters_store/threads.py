"""How OpenMP's threads wait for each other. Knows nothing else, and must be asked before torch.

By default a thread that reaches a barrier spins; where another process wants the core, everybody
then waits for the scheduler. Measured on two cores with one kept busy: ten times fewer training
steps a second (docs/log.md, 2026-11-20).
"""

import os
from typing import Final

OPENMP: Final = {"OMP_WAIT_POLICY": "PASSIVE"}


def wait_passively() -> None:
    """Let waiting threads give their core away, unless the environment says otherwise."""
    for name, value in OPENMP.items():
        os.environ.setdefault(name, value)
