"""The shelf: a budget of bytes that is never exceeded."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serving.shelf import Shelf

KEYS = st.sampled_from("abcdefgh")


class History(RuleBasedStateMachine):
    """Against a list of keys, least recently used first, and their weights."""

    def __init__(self):
        super().__init__()
        self.shelf, self.order, self.weights = Shelf(20), [], {}

    @rule(key=KEYS, nbytes=st.integers(0, 25))
    def put(self, key, nbytes):
        if key in self.order:
            with pytest.raises(KeyError):
                self.shelf.put(key, key, nbytes)
            return
        had_room, before = self.shelf.has_room(nbytes), list(self.order)
        gone = self.shelf.put(key, key.upper(), nbytes)
        assert gone == before[: len(gone)], "the oldest leave first"
        assert not (gone and (had_room or nbytes > 20))
        self.order = before[len(gone) :]
        if nbytes <= 20:
            self.order.append(key)
            self.weights[key] = nbytes
        if gone:
            assert sum(self.weights[k] for k in [*self.order, gone[-1]]) > 20, "and no more of them"

    @rule(key=KEYS)
    def touch(self, key):
        if key in self.order:
            self.shelf.touch(key)
            self.order.remove(key)
            self.order.append(key)

    @rule(key=KEYS)
    def take(self, key):
        assert self.shelf.take(key) == (key in self.order)
        self.order = [k for k in self.order if k != key]

    @invariant()
    def it_holds_what_it_should(self):
        self.shelf.check()
        assert list(self.shelf) == self.order
        assert all(self.shelf.find(k) == k.upper() for k in self.order)
        assert self.shelf.used_bytes == sum(self.weights[k] for k in self.order)


TestShelf = History.TestCase
TestShelf.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
