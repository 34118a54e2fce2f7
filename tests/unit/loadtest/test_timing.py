"""What headers say of time is read, and nonsense passed over."""

import math

import pytest

from loadtest.timing import retry_after, stages_of


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        (b"decode;dur=1.50, queue;dur=0.2", (("decode", 1.5), ("queue", 0.2))),
        (b'cache;desc="hit, or not";dur=2', (("cache", 2.0),)),
        (b"a;dur=x, b, c;dur=1", (("c", 1.0),)),
        (b"a;dur=1, a;dur=9", (("a", 1.0),)),
        (b"", ()),
    ],
)
def test_stages_are_read(text, stages):
    assert stages_of({b"server-timing": text}) == stages


def test_seconds_to_wait_are_read():
    assert retry_after({b"retry-after": b"3"}) == 3.0
    assert math.isnan(retry_after({}))
    assert math.isnan(retry_after({b"retry-after": b"Wed, 21 Oct 2026 07:28:00 GMT"}))
