"""Looking again: only while nobody waits, from the store's bytes, and not from one wrong turn."""

import threading

import numpy as np
import pytest
import torch

from adapters_store import artifact, plain
from adapters_store.errors import StoreUnavailableError
from serving import second_look
from serving.engine.plainly import Plainly, on_one_core
from serving.quiet import Quiet
from serving.second_look import SecondLook
from serving.telemetry import Telemetry
from serving.types import Answer, Path, Route, Sample
from tests import shelves

WAIT_S = 60.0


class Desk:
    """One release, its right answers, and a second look over them."""

    def __init__(self, backbone, data, **changes):
        self.backbone, self.adapter = backbone, artifact.read(data)
        self.quiet, self.telemetry = Quiet(), Telemetry(task_labels_max=10)
        self.route = Route(task="digits", release=3, digest=artifact.digest(data))
        self.fetched, self.condemned = [], []
        self.away, self.data, self.looked = False, data, threading.Event()
        how = {"share": 1.0, "dtype": torch.float32, **changes}
        self.second = SecondLook(
            backbone, self.fetch, self.telemetry, self.quiet, self.condemn, **how
        )
        shape = (3, 3, *backbone.spec.input_size)
        self.pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.logits = plain.logits(backbone, self.adapter, self.pictures)

    def fetch(self, digest):
        self.fetched.append(digest)
        if self.away:
            raise StoreUnavailableError("memory://", "out of reach")
        return self.data

    def condemn(self, kept, faults):
        self.condemned.append((kept.route, kept.path, faults))
        self.looked.set()

    def offer(self, which=0, change=0.0, path=Path.MIXED):
        sample = Sample(route=self.route, pixels=self.pictures[which], budget_s=1.0)
        logits = self.logits[which] + np.float32(change) * np.arange(len(self.logits[which]))
        answer = Answer(logits=logits.astype(np.float32), path=path, compute_s=0.0, batch=1)
        self.second.offer([(sample, answer)])

    def counted(self, name, **labels):
        return sum(
            sample.value
            for family in self.telemetry.snapshot()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def results(self, result):
        return self.counted("rootstock_second_looks_total", result=result)

    def until(self, condition):
        shelves.until(condition, WAIT_S)


@pytest.fixture
def desk_of(tiny, artifacts):
    made = []

    def make(**changes):
        made.append(Desk(tiny, artifacts[0], **changes))
        return made[-1]

    yield make
    for desk in made:
        desk.second.close()
        desk.second.check()


@pytest.fixture
def desk(desk_of):
    return desk_of()


def test_a_right_answer_is_found_right_and_its_distance_shown(desk):
    desk.offer(0)
    desk.offer(1, path=Path.MERGED)

    desk.until(lambda: desk.results("agreed") == 2)

    assert desk.condemned == []
    assert desk.fetched == [desk.route.digest], "once for looks that follow each other"
    assert desk.counted("rootstock_second_look_distance_bucket", le="0.1") == 2
    assert desk.counted("rootstock_second_look_seconds_total") > 0


def test_a_wrong_answer_condemns_its_release_after_it_was_computed_afresh(desk):
    desk.offer(0, change=0.5)

    desk.until(lambda: desk.results("disagreed") == 1)

    ((route, path, faults),) = desk.condemned
    assert (route, path) == (desk.route, Path.MIXED)
    assert "other logits" in faults[0]
    assert len(desk.fetched) == 2


@pytest.mark.parametrize(("roundings", "result"), [(3.0, "disagreed"), (1000.0, "agreed")])
def test_what_rounding_alone_does_to_a_release_is_no_disagreement(
    desk_of, monkeypatch, roundings, result
):
    """In bf16 the plain path is computed in bf16 too, before a release is condemned."""
    monkeypatch.setattr(second_look, "_ROUNDINGS", roundings)
    desk = desk_of(dtype=torch.bfloat16)
    desk.offer(0, change=0.5)

    desk.until(lambda: desk.results(result) == 1)

    assert len(desk.condemned) == (result == "disagreed")
    assert desk.counted("rootstock_second_look_distance_bucket", le="1.0") == 0


def test_nothing_is_looked_at_while_somebody_waits(desk, monkeypatch):
    asked = threading.Event()
    wait = desk.quiet.wait

    def waiting(*how):
        asked.set()
        wait(*how)

    monkeypatch.setattr(desk.quiet, "wait", waiting)
    desk.quiet.begin()
    desk.offer()
    assert asked.wait(WAIT_S)
    assert (desk.fetched, desk.counted("rootstock_second_looks_waiting")) == ([], 1)

    desk.quiet.end()

    desk.until(lambda: desk.results("agreed") == 1)
    assert desk.counted("rootstock_second_looks_waiting") == 0


def test_a_look_stops_between_two_operations_when_somebody_comes(tiny, artifacts):
    """And goes on from there: what is computed is the same."""
    adapter, quiet, asked = artifact.read(artifacts[0]), Quiet(), []
    picture = np.zeros((1, 3, *tiny.spec.input_size), np.uint8)
    held, found = threading.Event(), []

    def pause():
        asked.append(len(asked))
        if len(asked) == 40:
            quiet.begin()
            held.set()
        quiet.wait(0.0, WAIT_S, lambda: False)

    looking = threading.Thread(
        target=lambda: found.append(Plainly(tiny, adapter, pause).logits(picture))
    )
    looking.start()
    assert held.wait(WAIT_S)
    looking.join(0.1)
    assert (looking.is_alive(), len(asked)) == (True, 40), "not one operation more"

    quiet.end()
    looking.join(WAIT_S)

    np.testing.assert_array_equal(found[0], plain.logits(tiny, adapter, picture))
    assert len(asked) > 80, "it asks often"


def test_looks_rest_until_they_have_taken_their_small_share_of_a_core(desk, monkeypatch):
    clock = iter((10.0, 10.2))
    monkeypatch.setattr(second_look.time, "thread_time", lambda: next(clock))
    monkeypatch.setattr(desk.second, "_thread", threading.current_thread())  # no other looks
    desk.offer()

    assert desk.second._once() == pytest.approx(0.2 * 19)
    assert desk.counted("rootstock_second_look_seconds_total") == pytest.approx(0.2)
    monkeypatch.setattr(desk.second, "_thread", threading.Thread())


def test_what_cannot_be_had_from_the_store_is_counted_and_made_up_for(desk_of, monkeypatch):
    monkeypatch.setattr(second_look, "_BACK_OFF_S", 0.0)
    desk = desk_of(share=1e-6)
    desk.away = True
    desk.offer()
    desk.until(lambda: desk.results("unavailable") == 1)
    desk.away = False

    desk.until(lambda: desk.offer() or desk.results("agreed") == 1)

    assert desk.condemned == []


def test_a_plain_path_that_contradicts_itself_condemns_nobody(desk, monkeypatch):
    real, turns = Plainly.logits, []

    def wrong_once(self, pictures):
        turns.append(len(pictures))
        return real(self, pictures) + np.float32(len(turns) == 1)

    monkeypatch.setattr(Plainly, "logits", wrong_once)
    desk.offer()

    desk.until(lambda: desk.results("unsound") == 1)

    assert desk.condemned == []
    assert turns == [1, 5], "the golden images are its proof"


def test_a_plain_path_that_does_not_give_the_record_condemns_nobody(desk, monkeypatch):
    """Weights that were damaged in memory would condemn every release there is."""
    real = Plainly.logits
    monkeypatch.setattr(Plainly, "logits", lambda self, p: real(self, p) * np.float32(1.5))
    desk.offer()

    desk.until(lambda: desk.results("unsound") == 1)

    assert desk.condemned == []


def test_what_waits_is_bounded_and_what_is_kept_belongs_to_nobody_else(desk, monkeypatch):
    monkeypatch.setattr(desk.second._looks, "_most_bytes", 2 * desk.pictures[0].nbytes + 100)
    desk.quiet.begin()
    for which in (0, 1, 2):
        desk.offer(which)
    assert desk.counted("rootstock_second_looks_waiting") == 2
    assert desk.counted("rootstock_second_looks_dropped_total") == 1

    desk.pictures[:] = 0  # the batch's memory is used again
    desk.quiet.end()

    desk.until(lambda: desk.results("agreed") == 2)


def test_closing_ends_a_look_that_waits_for_its_moment(desk):
    desk.quiet.begin()
    desk.offer()

    desk.second.close()
    desk.offer()

    assert not desk.second._thread.is_alive()
    assert desk.results("agreed") == 0


def test_threads_of_others_keep_their_number():
    """Looks compute on one core; who asks torch afterwards is not told so, nor is a new thread."""
    before, numbers = torch.get_num_threads(), []

    def looking():
        on_one_core()
        numbers.append(torch.get_num_threads())

    torch.set_num_threads(2)
    try:
        for target in (looking, lambda: numbers.append(torch.get_num_threads())):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join(WAIT_S)
        assert (numbers, torch.get_num_threads()) == ([1, 2], 2)
    finally:
        torch.set_num_threads(before)


def test_what_goes_wrong_around_a_look_ends_no_look_but_that_one(desk, monkeypatch):
    monkeypatch.setattr(second_look, "_BACK_OFF_S", 0.0)
    monkeypatch.setattr(second_look, "_CORE_SHARE", 1.0)
    count, failed = desk.telemetry.count, []

    def once(name, *how, **labels):
        if not failed:
            failed.append(name)
            raise RuntimeError("of the metrics")
        count(name, *how, **labels)

    monkeypatch.setattr(desk.telemetry, "count", once)
    desk.offer(0)
    desk.offer(1)

    desk.until(lambda: desk.results("agreed") == 1)

    assert failed == ["rootstock_second_looks"]


def test_infinitely_wrong_answers_leave_the_metric_a_number(desk):
    desk.offer(0, change=np.nan)

    desk.until(lambda: desk.results("disagreed") == 1)

    assert np.isfinite(desk.counted("rootstock_second_look_distance_sum"))
    assert desk.counted("rootstock_second_look_distance_count") == 1
