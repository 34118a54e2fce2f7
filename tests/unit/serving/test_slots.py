"""The slot table: scarce places and scarce bytes, handed out once."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.slots import SlotTable

KEYS = st.sampled_from("abcdefg")


class Slots(RuleBasedStateMachine):
    """Three slots and ten bytes, against a model that only counts pins."""

    def __init__(self):
        super().__init__()
        self.table = SlotTable(3, most_bytes=10)
        self.pins = dict.fromkeys("abcdefg", 0)

    @rule(key=KEYS, nbytes=st.integers(0, 12))
    def claim(self, key, nbytes):
        held = self.table.held()
        if key in held:
            with pytest.raises(KeyError):
                self.table.claim(key, nbytes)
            return
        claimed = self.table.claim(key, nbytes)
        assert (claimed is None) == (len(held) == 3 and all(self.pins[k] for k in held))
        if claimed is not None:
            slot, gone = claimed
            assert not any(self.pins[k] for k in gone)
            assert slot not in {s for k, s in held.items() if k not in gone}
            assert list(gone) == [k for k in held if k in gone], "the oldest leave first"
            self.pins[key] = 1

    @rule(key=KEYS)
    def find(self, key):
        found = self.table.find(key)
        assert found == self.table.held().get(key)
        assert found is None or list(self.table.held())[-1] == key

    @rule(key=KEYS)
    def pin(self, key):
        if key in self.table.held():
            self.table.pin(key)
            self.pins[key] += 1

    @precondition(lambda self: any(self.pins.values()))
    @rule(data=st.data())
    def unpin(self, data):
        key = data.draw(st.sampled_from([k for k, n in self.pins.items() if n]))
        self.pins[key] -= 1
        assert not any(self.pins[k] for k in self.table.unpin(key))

    @rule(key=KEYS)
    def drop(self, key):
        loose = key in self.table.held() and not self.pins[key]
        assert self.table.drop(key) == loose
        assert not loose or key not in self.table.held()

    @invariant()
    def the_books_hold(self):
        self.table.check()
        assert self.table.pinned() == {k for k, n in self.pins.items() if n}
        assert self.table.used_bytes <= 10 or self.pins_weigh_it()

    def pins_weigh_it(self):
        held = set(self.table.held())
        return held == self.table.pinned() or len(held) == 1


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_the_least_recently_used_leaves_first():
    table = SlotTable(2)
    for key in "ab":
        table.claim(key)
        table.unpin(key)
    table.find("a")

    slot, gone = table.claim("c")

    assert gone == ("b",)
    assert slot != table.held()["a"]


def test_slot_zero_is_never_handed_out():
    table = SlotTable(4)

    assert {table.claim(k)[0] for k in "abcd"} == {1, 2, 3, 4}


def test_as_many_leave_as_the_bytes_of_one_ask_for():
    table = SlotTable(4, most_bytes=10)
    for key in "abc":
        table.claim(key, 3)
        table.unpin(key)

    _, gone = table.claim("d", 7)

    assert gone == ("a", "b")


def test_what_a_batch_pins_may_weigh_more_until_it_has_run():
    table = SlotTable(4, most_bytes=10)
    for key in "abc":
        assert table.claim(key, 6)[1] == ()
    assert table.used_bytes == 18

    assert [table.unpin(key) for key in "abc"] == [("a",), ("b",), ()]


def test_misuse_is_refused():
    table = SlotTable(1)
    table.claim("a")
    table.unpin("a")

    for misuse in (lambda: table.claim("a"), lambda: table.pin("b"), lambda: table.unpin("a")):
        with pytest.raises(KeyError):
            misuse()
