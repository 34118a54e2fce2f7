"""Requests are what servers understand, and answers are read as they mean them."""

import json
import struct

import httptools
import numpy as np
import pytest

from loadtest.errors import ScenarioError
from loadtest.images import Picture
from loadtest.scenario import Images, Target
from loadtest.targets.protocol import UNREADABLE
from loadtest.targets.table import target
from loadtest.wire import origin_of

PICTURES = [Picture("x.png", b"\x89PNG...", "image/png")]
NAMES = ("a b", "c")


class Parsed:
    """A request as a server's parser takes it."""

    def __init__(self, parts):
        self.headers, self.body, self.url, self.complete = {}, b"", b"", 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(b"".join(parts))
        assert parser.get_method() == b"POST"
        assert self.complete == 1

    def on_url(self, url):
        self.url = url

    def on_header(self, name, value):
        assert name.lower() not in self.headers
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.complete += 1


def asked(tasks=(0,), deadline_ms=0.0, generation=0, pictures=PICTURES, **how):
    made = target(Target(url="http://host:81/base", **how), NAMES, pictures)
    return made, Parsed(made.request(tasks, 0, deadline_ms, generation))


def test_ours_is_asked_for_a_task():
    _, found = asked(deadline_ms=40.4, generation=7, headers={"Authorization": "Bearer t"})

    assert found.url == b"/base/v1/tasks/a%20b:predict?top_k=2"
    assert found.body == PICTURES[0].data
    assert found.headers == {
        "x-request-deadline-ms": "40",
        "x-min-generation": "7",
        "host": "host:81",
        "authorization": "Bearer t",
        "content-type": "image/png",
        "content-length": str(len(PICTURES[0].data)),
    }


def test_ours_is_asked_for_several_tasks():
    _, found = asked(tasks=(1, 0))

    assert found.url == b"/base/v1/predict?top_k=2&task=c&task=a%20b"


def test_the_protocol_sends_bytes_behind_their_length():
    _, found = asked(kind="oip", deadline_ms=5.0)

    size = int(found.headers["inference-header-content-length"])
    call = json.loads(found.body[:size])
    data = PICTURES[0].data
    assert found.url == b"/base/v2/models/a%20b/infer"
    assert found.body[size:] == struct.pack("<I", len(data)) + data
    assert call["inputs"][0]["parameters"] == {"binary_data_size": len(data) + 4}
    assert call["outputs"] == [{"name": "label", "parameters": {"binary_data": True}}]
    assert call["parameters"] == {"timeout": 5000}


def test_the_protocol_sends_pixels_where_a_model_wants_them():
    from loadtest.images import pool

    pictures = pool(Images(count=1), np.random.SeedSequence(0))
    _, found = asked(kind="oip", datatype="FP32", size=8, label_output="", pictures=pictures)

    size = int(found.headers["inference-header-content-length"])
    call = json.loads(found.body[:size])
    assert call["inputs"][0]["shape"] == [1, 3, 8, 8]
    assert len(found.body) - size == 3 * 8 * 8 * 4
    assert call["parameters"] == {"binary_data_output": True}


def test_the_protocol_may_have_its_tensors_in_the_json():
    pictures = [Picture("x.png", b"abcd", "image/png")]
    _, found = asked(kind="oip", binary=False, deadline_ms=5.0, pictures=pictures)

    assert found.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in found.headers
    assert json.loads(found.body) == {
        "inputs": [
            {
                "name": "image",
                "shape": [1],
                "datatype": "BYTES",
                "parameters": {"content_type": "base64"},
                "data": ["YWJjZA=="],
            }
        ],
        "outputs": [{"name": "label"}],
        "parameters": {"timeout": 5000},
    }


@pytest.mark.parametrize(
    ("how", "shape", "tail"),
    [
        ({"datatype": "UINT8"}, [1, 4], b"abcd"),
        ({"shape": (1, 1)}, [1, 1], b"\4\0\0\0abcd"),
    ],
)
def test_the_protocol_s_tensors_have_the_shape_that_a_model_wants(how, shape, tail):
    pictures = [Picture("x.png", b"abcd", "image/png")]
    _, found = asked(kind="oip", pictures=pictures, **how)

    size = int(found.headers["inference-header-content-length"])
    assert json.loads(found.body[:size])["inputs"][0]["shape"] == shape
    assert found.body[size:] == tail


def answer(output, tail=b""):
    head = json.dumps({"outputs": output}).encode()
    return {b"inference-header-content-length": b"%d" % len(head)}, head + tail


def test_the_protocol_s_label_is_found_among_outputs():
    made, _ = asked(kind="oip")
    first = {"name": "p", "datatype": "FP32", "parameters": {"binary_data_size": 4}}
    second = {"name": "label", "datatype": "BYTES", "parameters": {"binary_data_size": 7}}

    read = made.read(*answer([first, second], b"\0\0\0\0" + struct.pack("<I", 3) + b"cat"))

    assert read.said[0].label == "cat"


def test_the_largest_element_is_the_label_where_there_is_none():
    made, _ = asked(kind="oip", label_output="")
    data = np.array([0.1, 0.7, 0.2], "<f4").tobytes()
    binary = {"name": "y", "datatype": "FP32", "parameters": {"binary_data_size": 12}}
    text = json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "data": [3.0, 1.0]}]})

    assert made.read(*answer([binary], data)).said[0].label == "1"
    assert made.read({}, text.encode()).said[0].label == "0"


@pytest.mark.parametrize(
    ("output", "tail"),
    [
        ([], b""),
        ([{"name": "other", "datatype": "BYTES", "data": ["x"]}], b""),
        ([{"name": "label", "datatype": "FP32", "data": [float("nan"), 1.0]}], b""),
        (
            [{"name": "label", "datatype": "BYTES", "parameters": {"binary_data_size": 2}}],
            b"ab",
        ),
    ],
)
def test_what_the_protocol_does_not_have_is_no_answer(output, tail):
    made, _ = asked(kind="oip")

    with pytest.raises(UNREADABLE):
        made.read(*answer(output, tail))


@pytest.mark.parametrize("body", ["raw", "multipart", "json"])
def test_a_plain_server_gets_the_image_as_it_wants_it(body):
    made, found = asked(kind="plain", path="/classify/{task}", body=body, field="pic")

    assert found.url == b"/base/classify/a%20b"
    match body:
        case "raw":
            assert found.body == PICTURES[0].data
        case "json":
            assert json.loads(found.body)["pic"] == "iVBORy4uLg=="
        case _:
            boundary = found.headers["content-type"].partition("boundary=")[2].encode()
            begin, part, end = found.body.split(b"--" + boundary)
            assert (begin, end) == (b"", b"--\r\n")
            assert b'name="pic"' in part
            assert part.endswith(b"\r\n\r\n" + PICTURES[0].data + b"\r\n")
    assert made.read({}, b"anything").said[0].label is None


def test_a_plain_server_s_label_is_found_by_its_path():
    made, _ = asked(kind="plain", label="answers.0.name")

    assert made.read({}, b'{"answers": [{"name": "cat"}]}').said[0].label == "cat"


def test_a_plain_server_s_template_holds_image_and_task():
    template = '{"instances": [{"b64": "{image}"}], "signature": "{task}"}'
    made = target(
        Target(url="http://h", kind="plain", path="/v1/x", body="template", template=template),
        ('say "a"', "c"),
        PICTURES,
    )

    for task, name in enumerate(('say "a"', "c")):
        found = Parsed(made.request((task,), 0, 0.0, 0))
        value = {"instances": [{"b64": "iVBORy4uLg=="}], "signature": name}
        assert json.loads(found.body) == value
        assert found.headers["content-type"] == "application/json"


def test_a_plain_server_s_headers_may_name_task_type_and_host():
    headers = {"serve_multiplexed_model_id": "{task}", "content-type": "a/b", "HOST": "x.example"}
    _, found = asked(tasks=(1,), kind="plain", headers=headers)

    assert found.headers["serve_multiplexed_model_id"] == "c"
    assert found.headers["content-type"] == "a/b"
    assert found.headers["host"] == "x.example"


@pytest.mark.parametrize("body", [b'{"answers": null}', b'{"answers": [1]}', b"{}"])
def test_a_label_that_is_none_is_no_answer(body):
    made, _ = asked(kind="plain", label="answers")

    with pytest.raises(UNREADABLE):
        made.read({}, body)


@pytest.mark.parametrize(
    "url",
    [
        *("host:80", "ftp://host", "http://", "http://host:port", "http://a..b", "http://h?x=1"),
        *("http://h/a b", "http://user:password@h"),
    ],
)
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ScenarioError):
        origin_of(url)


def test_ports_and_hosts_are_those_of_the_url():
    assert origin_of("https://h").port == 443
    assert origin_of("http://h/x/").path == "/x"
    assert origin_of("http://[::1]:8000").authority == "[::1]:8000"
    assert origin_of("http://h").authority == "h"
