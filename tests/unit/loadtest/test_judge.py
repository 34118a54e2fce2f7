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
from loadtest.promises import ANY, GONE, Mark, Promises
from loadtest.scenario import Checks, Target
from loadtest.targets.rootstock import Rootstock
from loadtest.targets.table import target as made
from loadtest.wire import Reply, origin_of

NAMES = ("a", "b", "nobody")
UNPROMISED = Mark()
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


def verdict(of, answer, tasks=(0,), image=0, want=Want.PREDICTION, mark=UNPROMISED):
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


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"[]", b"{}", b'{"predictions": []}', b"3", b"[" * 100_000),
        *(b'{"status": 200}', b'{"status": Infinity}'),
        *(json.dumps(said(**odd)).encode() for odd in ({"label": None}, {"digest": ["d"]})),
        json.dumps(said(release=[1])).encode(),
        json.dumps(said(odds=(float("nan"), 0.1))).encode(),
    ],
)
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


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("results", "predictions", "status", "release", "digest", "task", "label"),
                    *("probability", "outputs", "name", "datatype", "data", "parameters"),
                    "binary_data_size",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(
    st.sampled_from(["rootstock", "oip", "plain"]),
    anything,
    st.sampled_from([200, 404, 503]),
    st.sampled_from(list(Want)),
    st.sampled_from([b"", b"7", b"x", b"-1"]),
)
def test_whatever_a_server_says_there_is_a_verdict(kind, value, status, want, header):
    target = made(Target(kind=kind, url="http://h", label="label"), NAMES, PICTURES)
    of = Judge(Checks(), target, NAMES, ["x.jpg", "y.jpg"], {})
    headers = {b"inference-header-content-length": header, b"x-generation": header}
    answer = Reply(status, headers if header else {}, json.dumps(value).encode() + b"\x09\0\0\0ab")

    for tasks in ((0,), (0, 1)):
        outcome, _ = verdict(of, answer, tasks, want=want, mark=Mark((0,) * len(tasks), 5))
        assert outcome in Outcome


def test_an_unknown_task_among_several_is_refused_alone():
    of = judge()
    results = {"results": [{"status": 404}, said("dog", "b", digest="d2")]}

    found = verdict(of, reply(results, header=""), (2, 1), want=Want.UNKNOWN)

    assert found == (Outcome.EXPECTED, Wrong.NO)


def test_beside_an_unknown_task_the_others_still_have_to_be_right():
    of = judge({("d2", 0): ("dog", 0.8)})

    def asked(*results, status=200):
        return verdict(of, reply({"results": results}, status, ""), (2, 1), want=Want.UNKNOWN)

    refused = {"status": 404}
    assert asked(refused, said("cat", "b", digest="d2")) == (Outcome.WRONG, Wrong.LABEL)
    assert asked(refused, {"status": 503}) == (Outcome.SHED, Wrong.NO)
    assert asked(refused, refused) == (Outcome.CLIENT_ERROR, Wrong.NO)
    assert asked(status=404) == (Outcome.CLIENT_ERROR, Wrong.NO)


def test_an_answer_of_an_older_generation_than_was_demanded_is_stale():
    of = judge()
    of.promises.tell(1, [ANY], 9)
    mark = of.promises.mark([1])
    answer = reply(said(task="b"))

    answer.headers[b"x-generation"] = b"8"
    assert verdict(of, answer, (1,), mark=mark) == (Outcome.WRONG, Wrong.STALE)
    answer.headers[b"x-generation"] = b"9"
    assert verdict(of, answer, (1,), mark=mark) == (Outcome.OK, Wrong.NO)


def test_each_task_of_a_request_is_held_to_its_own_promise():
    of = judge()
    of.promises.tell(0, [2], 9)
    of.promises.tell(1, [ANY, GONE], 11)
    mark = of.promises.mark([0, 1])

    assert mark.generation == 11
    gone = {"status": 404}
    newer, older = said(release=2, digest="d2"), said(release=1)
    assert verdict(of, reply({"results": [newer, gone]}, header=""), (0, 1), mark=mark) == (
        Outcome.OK,
        Wrong.NO,
    )
    assert verdict(of, reply({"results": [older, gone]}, header=""), (0, 1), mark=mark) == (
        Outcome.WRONG,
        Wrong.STALE,
    )
    assert verdict(of, reply({"results": [gone, newer]}, header=""), (0, 1), mark=mark) == (
        Outcome.CLIENT_ERROR,
        Wrong.NO,
    )


def test_an_older_release_than_promised_is_stale():
    of = judge()
    of.promises.tell(0, [2], 9)
    mark = of.promises.mark([0])

    assert mark.generation == 9
    assert verdict(of, reply(said()), mark=mark) == (Outcome.WRONG, Wrong.STALE)
    newer = reply(said(release=2, digest="d2"), header="d2")
    assert verdict(of, newer, mark=mark) == (Outcome.OK, Wrong.NO)


def test_a_task_that_was_retired_is_refused_rightly():
    of = judge()
    of.promises.tell(0, [GONE], 3)
    mark = of.promises.mark([0])

    assert verdict(of, reply({}, 404), mark=mark) == (Outcome.EXPECTED, Wrong.NO)
    assert verdict(of, reply(said()), mark=mark) == (Outcome.WRONG, Wrong.STALE)
    corrupt = verdict(of, reply({}, 404), image=1, want=Want.UNDECODABLE, mark=mark)
    assert corrupt == (Outcome.EXPECTED, Wrong.NO)


def test_a_request_that_left_before_its_task_went_may_still_find_it_gone():
    of = judge()
    mark = of.promises.mark([0])
    assert verdict(of, reply({}, 404), mark=mark) == (Outcome.CLIENT_ERROR, Wrong.NO)

    of.promises.tell(0, [ANY, GONE], 0)

    assert verdict(of, reply({}, 404), mark=mark) == (Outcome.EXPECTED, Wrong.NO)


states = st.lists(st.sets(st.sampled_from([GONE, ANY, 1, 2, 3]), min_size=1), max_size=6)


@settings(max_examples=40)
@given(states, states, st.sampled_from([None, 1, 2, 3]))
def test_whatever_was_allowed_while_a_request_was_under_way_breaks_no_promise(before, after, seen):
    promises = Promises()
    for state in before:
        promises.tell(0, list(state), 1)
    mark = promises.mark([0])
    place = mark.places[0] if mark.places else 0
    for state in after:
        promises.tell(0, list(state), 2)

    during = before[-1:] + after
    if seen is None:
        assert promises.gone(0, place) == any(GONE in s for s in during)
    else:
        fine = any(seen in s or ANY in s for s in during)
        assert promises.broken(0, place, seen) == (bool(before) and not fine)
