"""Options that an artifact may choose: modest one by one, and modest together."""

import pytest

from adapters_store.errors import ArtifactInvalidError
from adapters_store.methods.table import METHODS, count, fits, parse_options

BOMBS = [
    ("alore", {"experts": 64, "rank": 64}),
    ("alore", {"variant": "B", "experts": 64, "rank": 64}),
    ("karst", {"kernels": 64, "factor": 64, "rank": 64}),
    ("karst", {"kernels": 64, "ranks": [8, 16]}),
    ("clora", {"spaces": 64, "rank": 64}),
    ("lora", {"variant": "each", "ranks": {"blocks.0.attn.qkv": 5000}}),
    ("arc", {"rank": 5000}),
    ("karst", {"multiplier": 1e200}),
    ("lora", {"scale": 1e-300}),
]


@pytest.mark.parametrize(("method", "options"), BOMBS)
def test_options_that_would_exhaust_a_server_are_refused(method, options):
    """A few megabytes of factors must not become gigabytes of work."""
    with pytest.raises(ArtifactInvalidError):
        parse_options(method, options)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_on_the_device_is_not_many_times_its_artifact(tinies, make_adapter, method):
    """Sixty-four times at most: of one bit a number, that is float32 and a little."""
    from serving.engine.engine import Engine

    for family, backbone in tinies.items():
        if not fits(method, parse_options(method, {}), backbone.spec):
            continue
        adapter = make_adapter(backbone, method, effect=False)
        row = Engine(backbone).prepare(adapter).row
        stored = adapter.factor_bytes
        assert row.numel() * row.element_size() <= 64 * stored + 4096, family
        assert count(adapter, backbone.spec) > 0 or method == "linear"
