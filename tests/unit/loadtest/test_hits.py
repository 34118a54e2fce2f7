"""Hits survive the file, and files of others are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.errors import HitsError
from loadtest.hits import Recorder, merged, read, write
from loadtest.outcomes import Outcome
from tests.unit.loadtest.conftest import make_hits

NAN = float("nan")
rows = st.lists(
    st.tuples(
        st.floats(0, 60),
        st.dictionaries(st.sampled_from(["decode", "queue", "compute"]), st.floats(0, 9, width=32)),
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(st.lists(rows, min_size=1, max_size=4))
def test_hits_of_all_processes_come_together_in_order(parts):
    columns, expected, count = [], [], 0
    for part in parts:
        recorder = Recorder()
        for at, stages in part:
            recorder.note(count, at, at, at + 1, 200, Outcome.OK, 0, 5, NAN)
            if stages:
                recorder.note_stages(tuple(stages.items()))
            expected.append((at, count, stages))
            count += 1
        columns.append(recorder.columns())
    tasks = np.arange(max(count, 1), dtype=np.int32)[:, None]

    hits = merged(columns, tasks, tasks.ravel(), {})

    assert sorted(hits["scheduled"].tolist()) == hits["scheduled"].tolist()
    assert hits["tasks"].ravel().tolist() == hits["row"].tolist()
    by_row = {row: (at, stages) for at, row, stages in expected}
    for i, row in enumerate(hits["row"].tolist()):
        at, stages = by_row[row]
        assert hits["scheduled"][i] == at
        for name, column in hits.stages.items():
            assert np.array_equal(column[i], np.float32(stages.get(name, NAN)), equal_nan=True)


def test_a_closed_loop_goes_round_the_plan():
    recorder = Recorder()
    for row in range(5):
        recorder.note(row, row, row, row, 200, Outcome.OK, 0, 5, NAN)

    hits = merged([recorder.columns()], np.array([[7], [8]], np.int32), np.array([1, 2]), {})

    assert hits["tasks"].ravel().tolist() == [7, 8, 7, 8, 7]


def test_a_file_gives_back_what_was_written(tmp_path):
    hits = make_hits([1.0, 2.0], stages={"decode": np.array([1.0, np.nan], np.float32)})

    write(hits, tmp_path / "x.npz")
    back = read(tmp_path / "x.npz")

    assert back.header == hits.header
    assert back.columns.keys() == hits.columns.keys()
    assert all(np.array_equal(back[n], hits[n], equal_nan=True) for n in hits.columns if n)
    assert np.array_equal(back.stages["decode"], hits.stages["decode"], equal_nan=True)
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_a_file_that_holds_no_hits_is_refused(tmp_path, data):
    file = tmp_path / "x.npz"
    file.write_bytes(data)

    with pytest.raises(HitsError, match="no hits"):
        read(file)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_that_was_damaged_is_refused_or_read(tmp_path_factory, data):
    """One clear error, whichever byte it is."""
    file = tmp_path_factory.mktemp("damaged") / "x.npz"
    write(make_hits([1.0, 2.0]), file)
    held = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(held) - 1))
    held[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(held if data.draw(st.booleans()) else held[:place])

    try:
        found = read(file)
    except HitsError:
        return
    assert len(found) == 2


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"sent": np.zeros(1)}, "not equally long"),
        ({"header": np.frombuffer(b"[1]", np.uint8)}, "holds no hits"),
        ({"header": np.frombuffer(b'{"format":"rootstock-hits/1"}', np.uint8)}, "it lacks began"),
        ({"done": np.float64(3)}, "not equally long"),
    ],
)
def test_hits_that_lack_something_are_refused(tmp_path, change, fault):
    file = tmp_path / "x.npz"
    write(make_hits([1.0, 2.0]), file)
    with np.load(file) as held:
        arrays = {name: held[name] for name in held.files}
    np.savez(file, **{**arrays, **change})

    with pytest.raises(HitsError, match=fault):
        read(file)


def test_arrays_of_something_else_are_refused(tmp_path):
    file = tmp_path / "x.npz"
    header = np.frombuffer(b'{"format": "other/1"}', np.uint8)
    np.savez(file, header=header)

    with pytest.raises(HitsError, match="rootstock-hits/1"):
        read(file)
    np.savez(file, objects=np.array([{}], object))
    with pytest.raises(HitsError, match="no hits"):
        read(file)
