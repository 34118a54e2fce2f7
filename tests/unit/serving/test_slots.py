"""The slot table: scarce places, handed out once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.slots import SlotTable


@given(st.lists(st.tuples(st.sampled_from("lpu"), st.sampled_from("abcdef")), max_size=80))
def test_any_history_keeps_the_partition(steps):
    table = SlotTable(3)
    pins = dict.fromkeys("abcdef", 0)
    for step, key in steps:
        held = table.held()
        if step == "l" and table.find(key) is None:
            claimed = table.claim(key)
            assert (claimed is None) == (len(held) == 3 and all(pins[k] for k in held))
            if claimed is not None and claimed[1] is not None:
                assert not pins[claimed[1]]
        elif step == "p" and key in held:
            table.pin(key)
            pins[key] += 1
        elif step == "u" and pins[key]:
            table.unpin(key)
            pins[key] -= 1
        table.check()
        assert all(k in table.held() for k, n in pins.items() if n)


def test_the_least_recently_used_leaves_first():
    table = SlotTable(2)
    table.claim("a")
    table.claim("b")
    table.find("a")

    slot, evicted = table.claim("c")

    assert evicted == "b"
    assert slot != table.held()["a"]


def test_slot_zero_is_never_handed_out():
    table = SlotTable(4)

    assert {table.claim(k)[0] for k in "abcd"} == {1, 2, 3, 4}


def test_misuse_is_refused():
    table = SlotTable(1)
    table.claim("a")
    table.pin("a")

    for misuse in (lambda: table.claim("a"), lambda: table.pin("b")):
        with pytest.raises(KeyError):
            misuse()
