"""The merged lane at work: counted, built aside, gated, swapped whole, and seen in the metrics."""

import gc
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from adapters_store import artifact, plain
from adapters_store.catalog import Catalog
from adapters_store.effect import golden_images
from adapters_store.errors import StoreUnavailableError
from serving.config import Settings
from serving.engine.merged import weigh
from serving.gain import Gain
from serving.hot import Hot
from serving.promotion import Rules
from serving.router import route
from serving.sync import View
from serving.telemetry import Telemetry
from serving.types import Path

PAYS = Gain(mixed=((1, 1.0), (8, 8.0)), merged=((1, 0.5), (8, 4.0)))  # from the first sample on
IN_FOURS = Gain(mixed=((1, 1.0), (8, 8.0)), merged=((1, 1.0), (3, 3.0), (4, 3.0), (8, 6.0)))
RULES = Rules(budget_bytes=2**30, retry_s=0.0, stay_s=0.0)


class Bench:
    """A merged lane over a store, looked after by hand."""

    def __init__(self, backbone, engine, store):
        self.backbone, self.engine, self.store = backbone, engine, store
        self.telemetry, self.refused, self.away = Telemetry(task_labels_max=10), set(), False
        self.fetched: list[str] = []

    def hot(self, gain=PAYS, rules=RULES, pins=()):
        self.lane = Hot(
            self.backbone,
            self.engine,
            self.fetch,
            self.telemetry,
            self.view,
            self.refused.__contains__,
            rules=rules,
            pins=pins,
            gain=gain,
        )
        return self.lane

    def fetch(self, digest):
        self.fetched.append(digest)
        if self.away:
            raise StoreUnavailableError("memory://", "out of reach")
        return self.store.blob(digest)

    def view(self):
        return View(self.store.catch_up(Catalog()).catalog)

    def to(self, ref):
        return route(self.view().catalog, ref, None, {}, self.refused.__contains__)

    def serve(self, *refs, times=1):
        """What a batch of these runs merged."""
        routes = [self.to(ref) for ref in refs]
        for _ in range(times):
            chosen = self.lane.choose(routes)
        return set(chosen)

    def counted(self, name, **labels):
        found = [
            sample.value
            for family in self.telemetry.snapshot()
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ]
        return found[0] if found else 0

    def merges(self, change, reason):
        return self.counted("rootstock_merges_total", change=change, reason=reason)


@pytest.fixture
def bench(tiny, engine, store):
    made = Bench(tiny, engine, store)
    yield made
    made.lane.check()


def pictures(count, backbone):
    shape = (count, 3, *backbone.spec.input_size)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_a_busy_task_is_merged_and_a_quiet_one_is_not(bench, publish, tiny):
    busy, quiet = artifact.digest(publish("busy")), artifact.digest(publish("quiet", seed=1))
    hot = bench.hot()

    assert bench.serve("busy", times=3) == set()
    hot.look()

    assert hot.merged == {busy}
    assert bench.serve("busy", "busy", "quiet") == {busy}
    assert bench.merges("promoted", "hot") == 1
    assert bench.counted("rootstock_merged_tasks") == 1
    adapter = artifact.read(bench.store.blob(busy))
    assert bench.counted("rootstock_merged_bytes") == weigh(tiny, adapter, torch.float32)
    assert quiet not in bench.fetched


def test_only_what_was_measured_to_gain_is_merged(bench, publish):
    publish("busy")
    hot = bench.hot(gain=Gain())

    bench.serve("busy", times=5)
    hot.look()

    assert hot.merged == set()
    assert bench.fetched == []


def test_a_group_smaller_than_break_even_stays_in_the_mixed_lane(bench, publish):
    digest = artifact.digest(publish("busy"))
    hot = bench.hot(gain=IN_FOURS)
    bench.serve("busy", "busy", "busy", times=10)
    hot.look()
    assert hot.merged == set(), "three samples of one task never gained anything"

    bench.serve(*["busy"] * 4, times=3)
    hot.look()

    assert bench.serve("busy", "busy") == set()
    assert bench.serve(*["busy"] * 4) == {digest}


def test_a_pinned_task_is_merged_before_any_traffic_and_however_small_its_group(bench, publish):
    digest = artifact.digest(publish("favourite"))
    publish("other", seed=1)
    hot = bench.hot(gain=Gain(), pins=("favourite", "unknown"))

    hot.look()

    assert bench.merges("promoted", "pinned") == 1
    assert bench.serve("favourite", "other", "other") == {digest}


def test_merged_samples_answer_as_the_plain_path_beside_mixed_ones(bench, publish, tiny, engine):
    blobs = {t: publish(t, m, seed=i) for i, (t, m) in enumerate([("a", "ssf"), ("b", "karst")])}
    hot = bench.hot(gain=Gain(), pins=("a",))
    hot.look()
    shown = pictures(4, tiny)
    adapters = {task: artifact.read(data) for task, data in blobs.items()}
    (folded,) = hot.choose([bench.to("a")]).values()
    mixed = engine.prepare(adapters["b"])

    answers = engine.run(shown, [folded, mixed, mixed, folded])

    for task, picture, answer in zip("abba", shown, answers, strict=True):
        alone = plain.logits(tiny, adapters[task], picture[None])[0]
        np.testing.assert_allclose(answer, alone, atol=1e-4, rtol=1e-4)


def test_a_fold_that_answers_otherwise_is_refused_for_good(bench, publish, engine, monkeypatch):
    publish("favourite")
    real = engine.fold

    def wrong(adapter):
        other = replace(
            adapter, tensors={**adapter.tensors, "head.bias": adapter.head_bias[::-1].copy()}
        )
        return real(other)

    monkeypatch.setattr(type(engine), "fold", lambda self, adapter: wrong(adapter))
    hot = bench.hot(pins=("favourite",))

    for _ in range(3):
        bench.serve("favourite", times=10)
        hot.look()

    assert hot.merged == set()
    assert bench.merges("refused", "disagreed") == 1
    assert bench.counted("rootstock_merged_tasks") == 0
    assert len(bench.fetched) == 1


def test_what_cannot_be_folded_is_refused_for_good(bench, publish, engine, monkeypatch):
    publish("favourite")

    def impossible(self, adapter):
        raise ValueError("ssf shifts the output of blocks.0.attn.qkv, which has no bias")

    monkeypatch.setattr(type(engine), "fold", impossible)
    hot = bench.hot(pins=("favourite",))

    for _ in range(3):
        bench.serve("favourite", times=10)
        hot.look()

    assert hot.merged == set()
    assert bench.merges("refused", "disagreed") == 1
    assert bench.merges("refused", "unavailable") == 0
    assert len(bench.fetched) == 1


def test_what_fails_to_be_folded_for_another_reason_is_tried_again(
    bench, publish, engine, monkeypatch
):
    digest = artifact.digest(publish("favourite"))

    def scarce(self, adapter):
        raise MemoryError

    hot = bench.hot(pins=("favourite",))
    with monkeypatch.context() as patch:
        patch.setattr(type(engine), "fold", scarce)
        hot.look()
    assert bench.merges("refused", "unavailable") == 1

    hot.look()

    assert hot.merged == {digest}


def test_an_unreachable_store_only_backs_off(bench, publish, monkeypatch):
    digest = artifact.digest(publish("favourite"))
    hot = bench.hot(pins=("favourite",), rules=replace(RULES, retry_s=60.0))
    bench.away = True
    hot.look()
    hot.look()
    assert bench.merges("refused", "unavailable") == 1
    assert len(bench.fetched) == 1

    bench.away = False
    later = time.monotonic() + 61.0
    with monkeypatch.context() as patch:  # the wait itself is not what is looked at
        patch.setattr("serving.hot.time.monotonic", lambda: later)
        hot.look()

    assert hot.merged == {digest}


def test_a_new_release_takes_the_place_of_the_old_at_once(bench, publish):
    old = artifact.digest(publish("favourite"))
    hot = bench.hot(pins=("favourite",))
    hot.look()
    assert hot.merged == {old}

    new = artifact.digest(publish("favourite", seed=1))
    assert bench.serve("favourite") == set(), "nobody waits for the fold"
    hot.look()

    assert hot.merged == {new}
    assert bench.merges("demoted", "superseded") == 1
    assert bench.serve("favourite") == {new}


def test_a_retired_task_leaves(bench, publish):
    publish("favourite")
    hot = bench.hot(pins=("favourite",))
    hot.look()

    bench.store.retire("favourite", by="test")
    hot.look()

    assert hot.merged == set()
    assert bench.counted("rootstock_merged_bytes") == 0


def test_what_was_demoted_leaves_no_weights_behind(bench, publish, engine, tiny):
    publish("favourite", "ssf")
    hot = bench.hot(pins=("favourite",))
    hot.look()
    (folded,) = hot.choose([bench.to("favourite")]).values()
    engine.run(pictures(2, tiny), [folded, folded])
    weights = weakref.ref(folded.net.get_parameter("blocks.0.attn.qkv.weight"))
    del folded
    gc.collect()
    assert weights() is not None

    bench.store.retire("favourite", by="test")
    hot.look()
    gc.collect()

    assert weights() is None


def test_a_release_that_fails_its_checks_is_not_merged_though_its_task_is_pinned(bench, publish):
    digest = artifact.digest(publish("favourite"))
    bench.refused.add(digest)
    hot = bench.hot(pins=("favourite",))

    hot.look()

    assert hot.merged == set()
    assert bench.fetched == []


def test_a_pin_that_does_not_fit_is_counted_once(bench, publish):
    publish("favourite")
    hot = bench.hot(pins=("favourite",), rules=replace(RULES, budget_bytes=10))

    for _ in range(3):
        hot.look()

    assert hot.merged == set()
    assert bench.merges("refused", "budget") == 1


def test_the_budget_holds_whatever_is_busy(bench, publish, tiny):
    tasks = [f"task{i}" for i in range(4)]
    sizes = {
        weigh(tiny, artifact.read(publish(t, seed=i)), torch.float32) for i, t in enumerate(tasks)
    }
    hot = bench.hot(rules=replace(RULES, budget_bytes=2 * max(sizes), stay_s=60))

    for _ in range(3):
        bench.serve(*tasks, times=5)
        hot.look()
        hot.check()

    assert len(hot.merged) == 2
    assert bench.counted("rootstock_merged_bytes") <= 2 * max(sizes)


def test_batches_that_run_while_releases_come_and_go_are_all_answered_right(
    bench, publish, tiny, engine
):
    blobs = [publish("task", seed=i) for i in range(2)]
    alone = [plain.logits(tiny, artifact.read(b), golden_images((32, 32))) for b in blobs]
    prepared = [engine.prepare(artifact.read(b)) for b in blobs]
    hot = bench.hot(pins=("task",))
    ended, gaps, seen = threading.Event(), [], set()

    def batches():
        lane = engine.lane()
        while not ended.is_set():
            for ref, said, mixed in zip(("task@1", "task@2"), alone, prepared, strict=True):
                way = bench.to(ref)
                how = hot.choose([way]).get(way.digest, mixed)
                seen.add(type(how).__name__)
                answers = np.stack(lane(golden_images((32, 32)), [how] * 4))
                gaps.append(np.abs(answers - said).max())

    thread = threading.Thread(target=batches)
    thread.start()
    try:
        for number in (1, 2, 1, 2):
            bench.store.activate("task", number, by="test")
            hot.look()
            hot.look()  # what had to rest may come back
    finally:
        ended.set()
        thread.join(30)

    assert max(gaps) <= 1e-3
    assert seen == {"Prepared", "Folded"}


def test_pins_without_memory_to_hold_them_are_a_mistake():
    with pytest.raises(ValueError, match="merged_pin needs merged_bytes"):
        Settings(store="file:///nowhere", merged_pin=("flowers",))


def test_nothing_is_merged_unless_memory_is_given_for_it(replica_of):
    assert replica_of().hot is None


def test_a_replica_merges_what_is_pinned_and_says_so(replica_of, publish, http, png):
    publish("favourite")
    publish("other", seed=1)
    client = http(replica := replica_of(merged_bytes=2**30, merged_pin=("favourite",)))
    deadline = time.monotonic() + 30
    while not replica.hot.merged and time.monotonic() < deadline:
        time.sleep(0.01)

    paths = {
        task: client.post(f"/v1/tasks/{task}:predict", content=png).json()["path"]
        for task in ("favourite", "other")
    }

    assert paths == {"favourite": Path.MERGED, "other": Path.MIXED}
    text = client.get("/metrics").text
    assert 'rootstock_merged_tasks{replica="replica-0"} 1.0' in text
    assert 'rootstock_samples_total{path="merged",replica="replica-0"} 1.0' in text
    assert (
        'rootstock_merges_total{change="promoted",reason="pinned",replica="replica-0"} 1.0' in text
    )
