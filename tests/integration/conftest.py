"""The server that several files ask one after the other: a start of Ray is the dearest of all.

Nothing about what they ask. `test_inference_protocol.py` finds it empty; the last test of
`test_inference_under_change.py`, which is the next file, stops it.
"""

import pytest

from serving.config import Settings
from serving.launch import free_port, run


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Two replicas behind HAProxy."""
    settings = Settings(
        store=f"file://{tmp_path_factory.mktemp('pair')}", port=free_port(), replicas=2, threads=1
    )
    with run(settings, timeout_s=300) as running:
        yield running
