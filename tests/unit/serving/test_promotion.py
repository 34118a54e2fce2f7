"""Promotion: the budget holds, pins come first, nothing flaps, and the same past decides alike."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serving.gain import Gain
from serving.promotion import Decision, Promotion, Reason, Rules

RULES = Rules(budget_bytes=100, stay_s=60, memory_s=30, retry_s=10)
DIGESTS = "abcdefgh"


def everything(digest):
    """Whatever there is can be reached."""
    return True


def looked(policy, now, saved=(), pinned=(), reachable=everything, sizes=None):
    """One look, weighing what has to be weighed, as the shell does."""
    found = policy.look(now, dict(saved), pinned, reachable)
    while found.weigh:
        before = found
        for digest in found.weigh:
            policy.weighed(digest, 40 if sizes is None else sizes[digest])
        again = policy.look(now, {}, pinned, reachable)
        found = Decision(
            weigh=again.weigh,
            demote=before.demote + again.demote,
            promote=before.promote + again.promote,
            refuse=again.refuse,
        )
    policy.check()
    return found


def steady(policy, begin, end, shares, **how):
    """Looks every two seconds at traffic that would save these shares of the time."""
    found = []
    for now in range(begin, end, 2):
        look = looked(policy, float(now), {d: 2 * s for d, s in shares.items()}, **how)
        found += [(now, "in", d, why) for d, why in look.promote]
        found += [(now, "out", d, why) for d, why in look.demote]
    return found


def test_traffic_that_saves_enough_is_promoted_and_leaves_when_it_is_over():
    policy = Promotion(RULES)

    risen = steady(policy, 0, 60, {"a": 0.02})
    fallen = steady(policy, 60, 400, {})

    assert [(verb, d, why) for _, verb, d, why in risen] == [("in", "a", Reason.HOT)]
    assert [(verb, d, why) for _, verb, d, why in fallen] == [("out", "a", Reason.COLD)]
    assert policy.merged == {}


def test_a_share_between_the_thresholds_changes_nothing_either_way():
    between = (RULES.promote_share + RULES.keep_share) / 2
    outside, inside = Promotion(RULES), Promotion(RULES)
    steady(inside, 0, 100, {"a": 0.02})

    assert steady(outside, 0, 600, {"a": between}) == []
    assert steady(inside, 100, 700, {"a": between}) == []


def test_traffic_that_saves_nothing_is_never_promoted():
    assert steady(Promotion(RULES), 0, 600, {"a": 0.0}) == []


def test_a_pinned_task_is_merged_without_any_traffic_and_stays():
    policy = Promotion(RULES)

    found = steady(policy, 0, 600, {}, pinned=("a",))

    assert found == [(0, "in", "a", Reason.PINNED)]


def test_a_pinned_task_takes_the_place_of_a_hot_one_at_once():
    policy = Promotion(RULES)
    steady(policy, 0, 60, {"a": 0.02, "b": 0.03})

    found = looked(policy, 60.0, pinned=("c",))

    assert found.promote == (("c", Reason.PINNED),)
    assert found.demote == (("a", Reason.BUDGET),)


def test_a_pinned_task_that_does_not_fit_is_refused_and_puts_nobody_out():
    policy = Promotion(RULES)
    steady(policy, 0, 60, {"a": 0.02})

    found = looked(policy, 60.0, pinned=("b",), sizes={"b": 101})

    assert found.refuse == (("b", Reason.BUDGET),)
    assert (found.demote, found.promote) == ((), ())


def test_pins_are_given_their_places_in_the_order_of_the_configuration():
    found = looked(Promotion(RULES), 0.0, pinned=("c", "a", "b"))

    assert [d for d, _ in found.promote] == ["c", "a"]
    assert found.refuse == (("b", Reason.BUDGET),)


def test_a_clearly_hotter_task_takes_the_place_of_one_that_had_its_stay():
    policy = Promotion(RULES)
    steady(policy, 0, 100, {"a": 0.02, "b": 0.03})

    found = steady(policy, 100, 300, {"a": 0.02, "b": 0.03, "c": 0.06})

    assert [(verb, d) for _, verb, d, _ in found] == [("in", "c"), ("out", "a")]


def test_a_slightly_hotter_task_does_not():
    policy = Promotion(RULES)
    steady(policy, 0, 100, {"a": 0.02, "b": 0.03})

    assert steady(policy, 100, 600, {"a": 0.02, "b": 0.03, "c": 0.025}) == []


def test_nobody_leaves_whose_place_is_not_needed():
    policy = Promotion(RULES)
    sizes = {"a": 10, "b": 90, "c": 90}
    steady(policy, 0, 100, {"a": 0.006, "b": 0.09}, sizes=sizes)

    # By the byte "a" is worth less; but where "b" leaves there is room enough.
    found = steady(policy, 100, 300, {"a": 0.006, "b": 0.09, "c": 0.3}, sizes=sizes)

    assert [(verb, d) for _, verb, d, _ in found] == [("in", "c"), ("out", "b")]


def test_a_superseded_release_leaves_at_once_and_its_successor_comes():
    policy = Promotion(RULES)
    looked(policy, 0.0, pinned=("a",))

    found = looked(policy, 1.0, pinned=("b",), reachable=lambda d: d != "a")

    assert found.demote == (("a", Reason.SUPERSEDED),)
    assert found.promote == (("b", Reason.PINNED),)


def test_what_disagreed_is_never_tried_again():
    policy = Promotion(RULES)
    looked(policy, 0.0, pinned=("a",))

    policy.failed("a", Reason.DISAGREED, 1.0)

    policy.check()
    assert policy.merged == {}
    assert steady(policy, 2, 1000, {"a": 0.5}, pinned=("a",)) == []


def test_what_was_unavailable_is_tried_again_later():
    policy = Promotion(RULES)
    looked(policy, 0.0, pinned=("a",))

    policy.failed("a", Reason.UNAVAILABLE, 1.0)

    assert steady(policy, 2, 30, {}, pinned=("a",)) == [(12, "in", "a", Reason.PINNED)]


def test_what_nobody_asks_for_any_more_is_forgotten():
    policy = Promotion(RULES)
    for now in range(300):
        looked(policy, float(now * 10), {f"digest {now}": 1.0})

    assert len(policy._shares) < 60
    assert len(policy._bytes) < 60
    assert len(policy._rests) < 60


LOOKS = st.lists(
    st.tuples(
        st.floats(0, 50),  # seconds since the last
        st.dictionaries(st.sampled_from(DIGESTS), st.floats(0, 2), max_size=4),
        st.lists(st.sampled_from(DIGESTS), max_size=2),
        st.sets(st.sampled_from(DIGESTS), max_size=1),  # no longer reached
    ),
    max_size=40,
)
SIZES = st.fixed_dictionaries({d: st.integers(1, 120) for d in DIGESTS})


def history(looks, sizes):
    """Every decision on these looks, each with its time and what was pinned."""
    policy, now, found = Promotion(RULES), 0.0, []
    for past, saved, pinned, gone in looks:
        now += past
        look = looked(policy, now, saved, pinned, lambda d, gone=gone: d not in gone, sizes)
        found.append((now, look, pinned))
    return found


@settings(max_examples=80, deadline=None)
@given(looks=LOOKS, sizes=SIZES)
def test_no_digest_changes_twice_within_its_stay(looks, sizes):
    """But for releases out of reach, and for a pinned task's right to a place."""
    changes: dict[str, list[tuple[float, bool]]] = {}
    for now, look, _ in history(looks, sizes):
        pinning = any(why is Reason.PINNED for _, why in look.promote)
        for digest, why in (*look.demote, *look.promote):
            rightful = why is Reason.SUPERSEDED or (why is Reason.BUDGET and pinning)
            changes.setdefault(digest, []).append((now, rightful))
    for changed in changes.values():
        for (before, _), (after, rightful) in pairwise(changed):
            assert rightful or after - before >= RULES.stay_s


@settings(max_examples=100, deadline=None)
@given(looks=LOOKS, sizes=SIZES)
def test_pins_come_first(looks, sizes):
    """No hot task is promoted while a pinned one is refused that would fit without hot ones."""
    held: set[str] = set()
    for _, look, pinned in history(looks, sizes):
        held = (held - {d for d, _ in look.demote}) | {d for d, _ in look.promote}
        for digest, why in look.refuse:
            assert why is Reason.BUDGET
            others = sum(sizes[d] for d in held & set(pinned))
            assert others + sizes[digest] > RULES.budget_bytes
        assert not {d for d, why in look.demote if why is not Reason.SUPERSEDED} & set(pinned)


@settings(max_examples=50, deadline=None)
@given(looks=LOOKS, sizes=SIZES)
def test_the_same_past_decides_alike(looks, sizes):
    assert history(looks, sizes) == history(looks, sizes)


class Life(RuleBasedStateMachine):
    """Looks, failures and sizes in any order, with only some of what is asked for done."""

    def __init__(self):
        super().__init__()
        self.policy, self.now, self.disagreed = Promotion(RULES), 0.0, set()
        self.held: dict[str, int] = {}
        self.sizes: dict[str, int] = {}

    @rule(digest=st.sampled_from(DIGESTS), nbytes=st.integers(1, 120))
    def weigh(self, digest, nbytes):
        self.policy.weighed(digest, self.sizes.setdefault(digest, nbytes))

    @rule(
        past=st.floats(0, 100),
        saved=st.dictionaries(st.sampled_from(DIGESTS), st.floats(0, 5), max_size=4),
        pinned=st.lists(st.sampled_from(DIGESTS), max_size=3),
        gone=st.sets(st.sampled_from(DIGESTS), max_size=2),
    )
    def look(self, past, saved, pinned, gone):
        self.now += past
        found = self.policy.look(self.now, saved, pinned, lambda d: d not in gone)
        for digest, _ in found.demote:
            del self.held[digest]
        for digest, _ in found.promote:
            assert digest not in self.held
            assert digest not in gone | self.disagreed
            self.held[digest] = self.sizes[digest]
        assert not set(self.held) & gone

    @rule(digest=st.sampled_from(DIGESTS), for_good=st.booleans())
    def fail(self, digest, for_good):
        """While it is built, or after it was demoted meanwhile."""
        reason = Reason.DISAGREED if for_good else Reason.UNAVAILABLE
        self.policy.failed(digest, reason, self.now)
        self.held.pop(digest, None)
        self.disagreed |= {digest} if for_good else set()

    @invariant()
    def the_books_are_right(self):
        self.policy.check()
        assert self.policy.merged == self.held
        assert sum(self.held.values()) <= RULES.budget_bytes


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_break_even_is_where_a_split_batch_is_shorter():
    """Ten milliseconds a batch, and of each sample's one merging saves half."""
    mixed = ((1, 0.011), (8, 0.018), (32, 0.042))
    merged = ((1, 0.0105), (8, 0.014), (32, 0.026))
    gain = Gain(mixed, merged)

    assert gain.least(8) == 8  # all of it or nothing: two batches pay the ten milliseconds twice
    assert gain.least(32) == 21
    assert gain.saved_s(32, 32) == pytest.approx(0.016)
    assert gain.saved_s(8, 32) == 0.0
    assert gain.least(64) == 22


def test_where_merging_saves_nothing_there_is_no_break_even():
    alike = ((1, 0.01), (8, 0.02))

    assert Gain(alike, alike).least(8) is None
    assert Gain().least(8) is None


def test_a_size_that_was_disturbed_makes_no_gain():
    disturbed = ((1, 0.03), (16, 0.17), (32, 0.99))

    assert Gain(mixed=disturbed, merged=disturbed).least(32) is None


def test_beyond_the_sizes_that_were_measured_nothing_is_saved_that_was_not_saved_there():
    """Two small sizes, and merging a little slower at one, a little faster at the other: noise."""
    noisy = Gain(mixed=((1, 0.032), (2, 0.054)), merged=((1, 0.036), (2, 0.054)))
    alone = Gain(mixed=((1, 0.200),), merged=((1, 0.190),))

    assert noisy.least(32) is None
    assert alone.saved_s(32, 32) == pytest.approx(32 * 0.01)


def test_a_difference_that_measuring_cannot_see_is_none():
    assert Gain(((8, 1.0),), ((8, 0.995),)).saved_s(8, 8) == 0.0
