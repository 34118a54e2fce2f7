"""Metrics before and after become what happened between."""

from loadtest.scrape import counted, histograms, samples

BEFORE = """\
# HELP x_total words
x_total{replica="1",task="a \\"b\\""} 5
x_total{replica="2",task="a \\"b\\""} 1
h_bucket{replica="1",stage="queue",le="0.1"} 1
h_bucket{replica="1",stage="queue",le="0.5"} 1
h_bucket{replica="1",stage="queue",le="+Inf"} 1
h_sum{replica="1",stage="queue"} 0.05
gauge 3
"""
AFTER = """\
x_total{replica="1",task="a \\"b\\""} 7 1700000000
x_total{replica="2",task="a \\"b\\""} 1
x_total{replica="3",task="new"} 4
h_bucket{replica="1",stage="queue",le="0.1"} 9
h_bucket{replica="1",stage="queue",le="0.5"} 11
h_bucket{replica="1",stage="queue",le="+Inf"} 11
h_bucket{replica="2",stage="queue",le="0.1"} 0
h_bucket{replica="2",stage="queue",le="0.5"} 0
h_bucket{replica="2",stage="queue",le="+Inf"} 1
h_sum{replica="1",stage="queue"} 1.05
h_sum{replica="2",stage="queue"} 1.0
gauge 9
s3_bucket{name="photos"} 4
no sample at all
"""


def test_counters_are_added_up_over_replicas():
    found = counted(samples(BEFORE), samples(AFTER))

    assert found == {"x_total": {'task=a \\"b\\"': 2.0, "task=new": 4.0}}


def test_histograms_give_mean_and_bounds():
    (found,) = histograms(samples(BEFORE), samples(AFTER))["h"].values()

    assert found["count"] == 11
    assert found["mean"] == 2.0 / 11
    assert found["p50_at_most"] == 0.1
    assert found["p99_at_most"] is None


def test_a_page_that_holds_no_metrics_gives_nothing():
    assert samples("<html>\n<body>404</body>") == {}
    assert counted({}, {}) == {}
