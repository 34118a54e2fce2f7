"""Answers are held to the truth: labels, digests, promises, and refusals where they are right."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.errors import ScenarioError
from loadtest.images import Picture
from loadtest.judge import Judge
from loadtest.outcomes import Outcome, Wrong
from loadtest.plan import Want
from loadtest.promises import ANY, GONE, Promises
from loadtest.scenario import Checks
from loadtest.targets.rootstock import Rootstock
from loadtest.wire import Reply, origin_of

NAMES = ("a", "b", "nobody")
PICTURES = [Picture("x.jpg", b"x", "image/jpeg"), Picture("y.jpg", b"y", "image/jpeg")]


def judge(learned=None, **checks):
    target = Rootstock(origin_of("http://h"), {}, NAMES, PICTURES)
    images = [picture.name for picture in PICTURES]
    return Judge(Checks(**checks), target, NAMES, images, learned or {})


def said(label="cat", task="a", release=1, digest="d1", odds=(0.9, 0.1)):
    best = [{"label": label, "probability": odds[0]}, {"label": "z", "probability": odds[1]}]
    return {"task": task, "release": release, "digest": digest, "predictions": best}


def reply(value, status=200, header="d1"):
    headers = {b"x-adapter-digest": header.encode()} if header else {}
    return Reply(status, headers, json.dumps(value).encode())


def verdict(of, answer, tasks=(0,), image=0, want=Want.PREDICTION, mark=0):
    return of.verdict(tasks, image, want, mark, answer)


def test_the_first_answer_decides_what_later_ones_are_held_to():
    of = judge()

    assert verdict(of, reply(said())) == (Outcome.OK, Wrong.NO)
    assert verdict(of, reply(said("dog"))) == (Outcome.WRONG, Wrong.LABEL)
    assert verdict(of, reply(said("dog")), image=1) == (Outcome.OK, Wrong.NO)


def test_what_was_learned_goes_before_the_first_answer():
    of = judge({("d1", 0): ("dog", 0.8)})

    assert verdict(of, reply(said("cat"))) == (Outcome.WRONG, Wrong.LABEL)
    assert verdict(of, reply(said("dog"))) == (Outcome.OK, Wrong.NO)


def test_another_adapter_may_say_something_else():
    of = judge()
    verdict(of, reply(said()))

    other = reply(said("dog", release=2, digest="d2"), header="d2")

    assert verdict(of, other) == (Outcome.OK, Wrong.NO)


def test_a_near_tie_may_fall_either_way():
    of = judge(margin=0.05)
    verdict(of, reply(said("cat", odds=(0.51, 0.49))))

    assert verdict(of, reply(said("dog", odds=(0.505, 0.495)))) == (Outcome.OK, Wrong.NO)


def test_labels_of_a_file_are_expected(tmp_path):
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"a": {"x.jpg": "cat", "unseen.jpg": "dog"}}))
    of = judge(labels="file", file=str(file))

    assert verdict(of, reply(said("cat"))) == (Outcome.OK, Wrong.NO)
    assert verdict(of, reply(said("dog"))) == (Outcome.WRONG, Wrong.LABEL)
    assert verdict(of, reply(said("dog")), image=1) == (Outcome.OK, Wrong.NO)


def test_a_file_that_holds_no_labels_is_refused(tmp_path):
    file = tmp_path / "labels.json"
    file.write_text("[1]")

    with pytest.raises(ScenarioError, match="task: "):
        judge(labels="file", file=str(file))


def test_a_release_has_one_digest():
    of = judge(labels="none")
    verdict(of, reply(said()))

    assert verdict(of, reply(said(digest="d9"), header="d9")) == (Outcome.WRONG, Wrong.DIGEST)
    assert verdict(of, reply(said(), header="d9")) == (Outcome.WRONG, Wrong.DIGEST)
    assert verdict(judge(digests=False), reply(said(), header="d9")) == (Outcome.OK, Wrong.NO)


def test_an_answer_for_another_task_is_wrong():
    assert verdict(judge(), reply(said(task="b"))) == (Outcome.WRONG, Wrong.TASK)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (429, Outcome.SHED),
        (503, Outcome.SHED),
        (504, Outcome.LATE),
        (400, Outcome.CLIENT_ERROR),
        (404, Outcome.CLIENT_ERROR),
        (413, Outcome.CLIENT_ERROR),
        (500, Outcome.SERVER_ERROR),
        (302, Outcome.CLIENT_ERROR),
    ],
)
def test_statuses_are_told_apart(status, outcome):
    assert verdict(judge(), reply({}, status)) == (outcome, Wrong.NO)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"predictions": []}', b"3"])
def test_a_success_that_cannot_be_read_is_no_answer(body):
    assert verdict(judge(), Reply(200, {}, body)) == (Outcome.BAD_BODY, Wrong.NO)


@pytest.mark.parametrize(("want", "status"), [(Want.UNKNOWN, 404), (Want.UNDECODABLE, 400)])
def test_a_refusal_that_is_right_is_expected(want, status):
    of = judge()

    assert verdict(of, reply({}, status), want=want) == (Outcome.EXPECTED, Wrong.NO)
    assert verdict(of, reply(said()), want=want) == (Outcome.WRONG, Wrong.ANSWERED)
    assert verdict(of, reply({}, 503), want=want) == (Outcome.SHED, Wrong.NO)


def test_every_task_of_a_request_counts():
    of, results = judge(), [said(), said("dog", "b", digest="d2")]

    assert verdict(of, reply({"results": results}, header=""), (0, 1)) == (Outcome.OK, Wrong.NO)
    assert verdict(of, reply({"results": results[:1]}), (0, 1)) == (Outcome.WRONG, Wrong.TASK)
    mixed = {"results": [results[0], {"status": 503}]}
    assert verdict(of, reply(mixed, header=""), (0, 1)) == (Outcome.SHED, Wrong.NO)


def test_an_unknown_task_among_several_is_refused_alone():
    of = judge()
    results = {"results": [{"status": 404}, said("dog", "b", digest="d2")]}

    found = verdict(of, reply(results, header=""), (2, 1), want=Want.UNKNOWN)

    assert found == (Outcome.EXPECTED, Wrong.NO)


def test_an_older_release_than_promised_is_stale():
    of = judge()
    of.promises.tell(0, [2], 9)
    mark, generation = of.promises.mark(0)

    assert generation == 9
    assert verdict(of, reply(said()), mark=mark) == (Outcome.WRONG, Wrong.STALE)
    newer = reply(said(release=2, digest="d2"), header="d2")
    assert verdict(of, newer, mark=mark) == (Outcome.OK, Wrong.NO)


def test_a_task_that_was_retired_is_refused_rightly():
    of = judge()
    of.promises.tell(0, [GONE], 3)
    mark, _ = of.promises.mark(0)

    assert verdict(of, reply({}, 404), mark=mark) == (Outcome.EXPECTED, Wrong.NO)
    assert verdict(of, reply(said()), mark=mark) == (Outcome.WRONG, Wrong.STALE)


states = st.lists(st.sets(st.sampled_from([GONE, ANY, 1, 2, 3]), min_size=1), max_size=6)


@settings(max_examples=40)
@given(states, states, st.sampled_from([None, 1, 2, 3]))
def test_whatever_was_allowed_while_a_request_was_under_way_breaks_no_promise(before, after, seen):
    promises = Promises()
    for state in before:
        promises.tell(0, list(state), 1)
    mark, _ = promises.mark(0)
    for state in after:
        promises.tell(0, list(state), 2)

    during = (before[-1:] if before else []) + after
    fine = any((GONE in s) if seen is None else (seen in s or ANY in s) for s in during)
    assert promises.broken(0, mark, seen) == (bool(before) and not fine)
