"""Pictures at the door: answered as the slow path answers them, and as training reads them."""

import base64
import json

import numpy as np
import pytest

from adapters_store import artifact, pixels, plain
from tests import matrix_images
from tests.picture_files import SCENE, png_blank, saved
from training import folder
from training.errors import DataInvalidError

PROBLEM = "application/problem+json"
URL = "/v1/tasks/digits:predict"
ANSWERED = [case for case in matrix_images.cases() if case.picture is not None]
REFUSED = [case for case in matrix_images.cases() if case.picture is None]
FAULTS_SHOWN = 20  # by training, of one folder


@pytest.fixture
def door(publish, replica_of, http):
    """A client, its replica, and the adapter that answers."""
    adapter = artifact.read(publish())
    replica = replica_of()
    return http(replica), replica, adapter


@pytest.fixture
def seen(door, monkeypatch):
    """The pixels that reach the batcher, in order."""
    batcher, found = door[1].batcher, []
    submit = batcher.submit

    def watch(sample):
        found.append(sample.pixels)
        return submit(sample)

    monkeypatch.setattr(batcher, "submit", watch)
    return found


def send(client, case):
    """The answer to one file."""
    return client.post(URL, content=case.data, headers={"Content-Type": case.kind})


def written(root, cases):
    """An image folder of these files."""
    (root / "test" / "digits").mkdir(parents=True)
    for number, case in enumerate(cases):
        (root / "test" / "digits" / f"{number:03}.jpg").write_bytes(case.data)
    return root


def test_every_answer_is_that_of_the_slow_path_on_what_training_reads(door, seen, tiny, tmp_path):
    client, _, adapter = door
    preprocess = adapter.manifest.preprocess
    split, _ = folder.read_split(
        written(tmp_path, ANSWERED), "test", ("digits",), preprocess, strict=True
    )
    wanted = plain.logits(tiny, adapter, split.images)
    odds = np.exp(wanted - wanted.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)

    for case, row in zip(ANSWERED, odds, strict=True):
        answer = send(client, case)
        assert answer.status_code == 200, (case.name, answer.text)
        got = {p["index"]: p["probability"] for p in answer.json()["predictions"]}
        np.testing.assert_allclose([got[i] for i in range(5)], row, atol=1e-5, err_msg=case.name)

    np.testing.assert_array_equal(np.stack(seen), split.images)


def test_what_is_refused_is_a_problem_and_names_the_reason_of_training(door, seen, tmp_path):
    client, _, adapter = door
    said = {}
    for case in REFUSED:
        answer = send(client, case)
        assert answer.status_code == 400, (case.name, answer.text)
        assert answer.headers["content-type"] == PROBLEM
        document = answer.json()
        assert document["code"] == "image_invalid"
        assert case.says in document["detail"]
        assert document["detail"].isprintable()
        assert " at 0x" not in document["detail"]
        said[case.name] = document["detail"]

    for start in range(0, len(REFUSED), FAULTS_SHOWN):
        cases = REFUSED[start : start + FAULTS_SHOWN]
        root = written(tmp_path / str(start), cases)
        with pytest.raises(DataInvalidError) as refused:
            folder.read_split(root, "test", ("digits",), adapter.manifest.preprocess, strict=True)
        found = [fault.partition(": ")[2] for fault in refused.value.faults]
        assert found == [said[case.name] for case in cases]
    assert seen == []


def test_a_server_still_answers_after_everything_it_refused(door, png):
    client, _, _ = door
    before = client.post(URL, content=png).json()["predictions"]

    for case in REFUSED:
        send(client, case)

    assert client.post(URL, content=png).json()["predictions"] == before


@pytest.mark.parametrize(
    "kind", ["image/jpeg", "image/png", "IMAGE/X; q=1", "application/octet-stream", "", None]
)
def test_the_bytes_say_what_they_are_whatever_the_content_type_says(door, seen, kind):
    client, _, adapter = door
    data = saved(SCENE, "JPEG")
    headers = {} if kind is None else {"Content-Type": kind}

    answer = client.post(URL, content=data, headers=headers)

    assert answer.status_code == 200, answer.text
    np.testing.assert_array_equal(seen[0], pixels.pixels(data, adapter.manifest.preprocess))


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/html", "application/x-www-form-urlencoded", "video/mp4", "image"]
)
def test_a_content_type_that_cannot_be_a_picture_is_refused_unread(door, seen, kind):
    client, _, _ = door

    answer = client.post(URL, content=saved(SCENE, "JPEG"), headers={"Content-Type": kind})

    assert answer.status_code == 415
    assert answer.headers["content-type"] == PROBLEM
    assert "image/*" in answer.json()["detail"]
    assert seen == []


_JPEG = base64.b64encode(saved(SCENE, "JPEG")).decode()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "the image is empty"),
        ("aGVsbG8=", "no image of a known format"),
        (_JPEG[:-40], "damaged"),
        (_JPEG[:-1], "not base64"),
        ("data:image/jpeg;base64," + _JPEG, "not base64"),
        (_JPEG[:76] + "\n" + _JPEG[76:], "not base64"),
        ("\ud800", "not base64"),
        (7, "must be"),
    ],
)
def test_broken_base64_is_refused(door, value, says):
    client, _, _ = door

    body = json.dumps({"image": value})
    answer = client.post(URL, content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 400
    assert says in answer.json()["detail"]


def test_each_part_of_a_form_is_answered_or_refused_on_its_own(door):
    client, _, _ = door
    chosen = [ANSWERED[0], *REFUSED[:3], ANSWERED[-1], *REFUSED[-3:]]
    parts = [("file", (f"{i}.jpg", case.data, case.kind)) for i, case in enumerate(chosen)]

    answer = client.post(URL, files=parts)

    assert answer.status_code == 200
    got = [result.get("status", 200) for result in answer.json()["results"]]
    assert got == [200, 400, 400, 400, 200, 400, 400, 400]


def test_forms_that_are_cut_off_are_refused(door):
    client, _, _ = door
    head = b'--y\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    whole = head + saved(SCENE, "JPEG") + b"\r\n--y--\r\n"
    kind = "multipart/form-data; boundary=y"

    for end in (0, 3, 30, len(head) - 2, len(whole) // 2, len(whole) - 6):
        answer = client.post(URL, content=whole[:end], headers={"Content-Type": kind})
        assert answer.status_code == 400, (end, answer.text)
        assert answer.headers["content-type"] == PROBLEM
    assert client.post(URL, content=whole, headers={"Content-Type": kind}).status_code == 200


def test_the_limit_of_pixels_is_a_setting(publish, replica_of, http):
    publish()
    client = http(replica_of(pixels_max=1000))

    assert client.post(URL, content=png_blank((50, 20))).status_code == 200
    refused = client.post(URL, content=png_blank((50, 21)))
    assert refused.status_code == 400
    assert "at most 1000" in refused.json()["detail"]
