"""Axes are labelled with round values, inside the plot."""

from hypothesis import given
from hypothesis import strategies as st

from loadtest.report.axes import linear, logarithmic, nines, number

sizes = st.floats(1e-3, 1e7)


@given(sizes, sizes)
def test_ticks_lie_inside_and_are_few(low, more):
    for scale in (linear(low, low + more, 6), logarithmic(low, low + more)):
        places = [scale.place(value) for value, _ in scale.ticks]
        assert all(-1e-6 <= place <= 1 + 1e-6 for place in places)
        assert places == sorted(places)
        assert len(places) <= 12


@given(st.integers(1, 10**7), st.floats(0, 1))
def test_nines_are_stretched_to_the_end(count, share):
    scale = nines(count)

    assert 0 <= scale.place(share) <= 1
    assert scale.place(0.0) == 0.0
    assert [text for _, text in nines(1000).ticks] == ["0 %", "50 %", "90 %", "99 %", "99.9 %"]


def test_numbers_are_short():
    assert [number(v) for v in (0, 0.5, 1500, 20_000, 3e6)] == ["0", "0.5", "1500", "20 k", "3 M"]
