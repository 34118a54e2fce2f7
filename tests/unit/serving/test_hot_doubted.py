"""What the merged lane does once answers of a copy or of a release were found to be wrong."""

import pytest

from adapters_store import artifact
from serving.gain import Gain
from serving.sync import Passed, View
from tests.unit.serving.test_hot import Bench


@pytest.fixture
def bench(tiny, engine, store):
    made = Bench(tiny, engine, store)
    yield made
    made.lane.check()


def test_a_doubted_copy_is_seen_by_no_batch_and_never_built_again(bench, publish):
    digest = artifact.digest(publish("favourite"))
    hot = bench.hot(gain=Gain(), pins=("favourite",))
    hot.look()
    assert bench.serve("favourite") == {digest}

    hot.doubt(digest)
    assert bench.serve("favourite") == set(), "at once, and not after the next look"
    for _ in range(2):
        hot.look()

    assert hot.merged == set()
    assert bench.merges("demoted", "disagreed") == 1
    assert bench.merges("promoted", "pinned") == 1
    assert bench.counted("rootstock_merged_bytes") == 0


def test_what_is_quarantined_is_not_answered_merged(bench, publish):
    digest = artifact.digest(publish("favourite"))
    hot = bench.hot(gain=Gain(), pins=("favourite",))
    hot.look()
    route = bench.to("favourite")

    bench.refused.add(digest)

    assert hot.choose([route]) == {}
    hot.look()
    assert hot.merged == set()


def test_what_stands_in_for_a_quarantined_release_is_merged_in_its_place(bench, publish):
    """Nothing in the log changes with it: the view is the same."""
    digests = [artifact.digest(publish("favourite", seed=seed)) for seed in (0, 1)]
    catalog = bench.view().catalog
    passed = Passed({"favourite": catalog.tasks["favourite"].releases[::-1]})
    view = View(catalog, passed=passed)
    bench.view = lambda: view
    hot = bench.hot(gain=Gain(), pins=("favourite",))
    hot.look()
    assert hot.merged == {digests[1]}

    bench.refused.add(digests[1])
    hot.look()

    assert hot.merged == {digests[0]}
