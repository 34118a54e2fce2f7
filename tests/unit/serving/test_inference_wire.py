"""The inference protocol's bytes: what they ask for, and how answers are written."""

import base64
import gzip
import json
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from serving.errors import MediaUnsupportedError, RequestInvalidError, TooLargeError
from serving.inference_wire import Asked, Computed, Wanted, inflated, packed, read, written

BOTH = (Wanted("probabilities", binary=False), Wanted("label", binary=False))
IMAGES = (b"one", b"", b"\xff\x00three")

LETTER = gzip.compress(b"a")


def request(data=("b25l",), shape=None, **changes):
    """A request as JSON; its one image is b"one"."""
    tensor = {"name": "image", "datatype": "BYTES", "shape": shape or [len(data)]}
    inputs = [{**tensor, "data": list(data), **changes.pop("input", {})}]
    return json.dumps({"inputs": inputs, **changes}).encode()


def binary(images=IMAGES, shape=None, size=None, **changes):
    """A request with a binary tensor, and what its header says of the JSON's length."""
    tail = b"".join(struct.pack("<I", len(image)) + image for image in images)
    parameters = {"binary_data_size": len(tail) if size is None else size}
    tensor = {"name": "image", "datatype": "BYTES", "shape": shape or [len(images)]}
    head = json.dumps({"inputs": [{**tensor, "parameters": parameters, **changes}]}).encode()
    return head + tail, str(len(head))


@pytest.mark.parametrize("binary_data", [True, False])
def test_what_tritonclient_writes_is_read(binary_data):
    images = IMAGES if binary_data else [base64.b64encode(i) for i in IMAGES]
    tensor = InferInput("image", [3, 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, object)[:, None], binary_data=binary_data)
    outputs = [
        InferRequestedOutput("label", binary_data=False),
        InferRequestedOutput("probabilities", class_count=2),
    ]
    body, length = InferenceServerClient.generate_request_body(
        [tensor], outputs, request_id="7", timeout=2_000_000
    )

    asked = read(body, None if length is None else str(length), 8)

    assert asked == Asked(
        images=IMAGES,
        outputs=(Wanted("label", binary=False), Wanted("probabilities", binary=True, classes=2)),
        id="7",
        timeout_s=2.0,
    )


def test_shapes_and_nested_lists_of_batched_clients_are_read():
    for body in (
        request(["b25l", "b25l"]),
        request(["b25l", "b25l"], shape=[2, 1]),
        request([["b25l"], ["b25l"]], shape=[2, 1]),
    ):
        assert read(body, None, 8) == Asked(images=(b"one", b"one"), outputs=BOTH)


def test_null_and_foreign_fields_are_no_hindrance():
    nothing = {"id": None, "parameters": None, "outputs": None, "model_name": "x"}

    assert read(request(**nothing, input={"parameters": None, "x": 1}), None, 8).outputs == BOTH
    assert read(request(parameters={"priority": 3, "mine": [1]}, outputs=[]), None, 8).id is None


def test_every_output_is_binary_when_all_are_asked_for_and_none_says_otherwise():
    all_binary = request(parameters={"binary_data_output": True})
    one_not = request(
        parameters={"binary_data_output": True},
        outputs=[
            {"name": "label", "parameters": {"binary_data": False}},
            {"name": "probabilities"},
        ],
    )

    assert [w.binary for w in read(all_binary, None, 8).outputs] == [True, True]
    assert [(w.name, w.binary) for w in read(one_not, None, 8).outputs] == [
        ("label", False),
        ("probabilities", True),
    ]


def test_a_header_of_no_length_makes_the_body_one_image():
    asked = read(b"\xff\xd8 a picture", "0", 8)

    assert asked.images == (b"\xff\xd8 a picture",)
    assert [w.binary for w in asked.outputs] == [True, True]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b'{"inputs": []}', "one input"),
        (request(input={"name": "picture"}), "name is 'image'"),
        (request(input={"datatype": "UINT8"}), "BYTES"),
        (request(input={"data": None}), "no list"),
        (request(input={"data": "b25l"}), "no list"),
        (request([1]), "not a string"),
        (request([["b25l", "b25l"]]), "not a string"),
        (request(["b25"]), "not base64"),
        (request(["ü"]), "not base64"),
        (request([], shape=[0]), "empty"),
        (request(["b25l"] * 9), "more than 8"),
        (request(shape=[2]), "shape"),
        (request(shape=[1, 2]), "shape"),
        (request(shape=[1, 1, 1]), "shape"),
        (request(shape=[-1]), "shape"),
        (request(shape=[10**400]), "shape"),
        (request(shape=["1"]), "shape"),
        (request(input={"parameters": {"binary_data_size": 3}}), "binary_data_size"),
        (request(input={"parameters": {"shared_memory_region": "x"}}), "shared"),
        (request(outputs=[{"name": "logits"}]), "no output 'logits'"),
        (request(outputs=[{"name": "label"}] * 2), "twice"),
        (request(outputs=[{"name": "label", "parameters": {"classification": 1}}]), "alone"),
        (request(outputs=[{"name": "label", "parameters": {"classification": -1}}]), "class"),
        (request(outputs=[{"name": "label", "parameters": {"binary_data": 1}}]), "binary_data"),
        (
            request(outputs=[{"name": "label", "parameters": {"shared_memory_region": "x"}}]),
            "shared",
        ),
        (request(id="x" * 1025), "id"),
        (request(parameters={"timeout": "soon"}), "timeout"),
        (b'{"id": "\\ud800", ' + request()[1:], "body"),
        (b"[" * 10_000, "body"),
        (b"[" * 100_000, "16384 values"),
        (request()[:-1] + b', "x": [' + b"1," * 20_000 + b"1]}", "16384 values"),
    ],
)
def test_json_that_asks_for_nothing_there_is_says_so(body, says):
    with pytest.raises(RequestInvalidError, match=says):
        read(body, None, 8)


@pytest.mark.parametrize(
    ("body", "length", "says"),
    [
        (*binary(size=5), "binary_data_size"),
        (*binary(shape=[2]), "shape"),
        (*binary(data=["b25l"]), "both"),
        (*binary([b""] * 9), "more than 8"),
        (binary()[0] + b"more", binary()[1], "binary_data_size"),
        (binary()[0], "99999999", "more than the body"),
        (binary()[0], "1" * 5000, "not a number"),
        (binary()[0], "-1", "not a number"),
        (binary()[0], "²", "not a number"),
        (binary()[0], "5", "body"),
    ],
)
def test_binary_tensors_that_do_not_fit_say_so(body, length, says):
    with pytest.raises(RequestInvalidError, match=says):
        read(body, length, 8)


@pytest.mark.parametrize("tail", [b"\1", b"\4\0\0\0abc", b"\0\0\0\0\1\0\0\0", b"\xff\xff\xff\xff"])
def test_elements_that_are_cut_off_say_so(tail):
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(tail)}}]})

    with pytest.raises(RequestInvalidError, match="cut off"):
        read(head.encode() + tail, str(len(head)), 8)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_whatever_images_are_written_are_read_again(images):
    assert read(*binary(images), 8).images == tuple(images)


@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=6), st.integers().map(str)))
def test_any_bytes_are_read_or_refused(body, length):
    with suppress(RequestInvalidError):
        assert read(body, length, 8).images


@given(st.data())
def test_a_request_with_any_bytes_changed_is_read_or_refused(data):
    body, length = binary()
    changed = bytearray(body)
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    cut = bytes(changed[: data.draw(st.integers(0, len(body)))])

    with suppress(RequestInvalidError):
        assert 1 <= len(read(cut, length, 8).images) <= 8


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_that_is_no_request_is_refused(value):
    with pytest.raises(RequestInvalidError):
        read(json.dumps(value).encode(), None, 8)


def test_compressed_bodies_are_inflated_and_no_further_than_the_limit():
    plain = b"a" * 1000

    assert inflated(plain, "", 10) == plain
    assert inflated(plain, "identity", 10) == plain
    assert inflated(gzip.compress(plain), "gzip", 1000) == plain
    assert inflated(zlib.compress(plain), " DEFLATE", 1000) == plain
    for coding, body in (("gzip", gzip.compress(plain)), ("deflate", zlib.compress(plain))):
        with pytest.raises(TooLargeError):
            inflated(body, coding, 999)


@pytest.mark.parametrize(
    "body", [b"", b"no", LETTER[:-1], LETTER * 2], ids=["empty", "other", "cut", "two"]
)
def test_what_is_no_compressed_body_is_refused(body):
    with pytest.raises(RequestInvalidError):
        inflated(body, "gzip", 1000)


@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate"]))
def test_any_compressed_bytes_are_inflated_or_refused(body, coding):
    with suppress(RequestInvalidError):
        assert len(inflated(body, coding, 1000)) <= 1000


def test_other_codings_are_not_read():
    for coding in ("br", "gzip, gzip", "zstd"):
        with pytest.raises(MediaUnsupportedError):
            inflated(b"", coding, 1000)


COMPUTED = Computed(
    model="digits",
    version="3",
    labels=("a:b", "ü", "c"),
    odds=[np.array([0.25, 0.5, 0.25]), np.array([1e-9, 0.0, 1 - 1e-9])],
)


def test_answers_are_written_as_json():
    body, length = written(Asked((b"", b""), BOTH, id="\u2028 7"), COMPUTED)

    assert length is None
    assert json.loads(body) == {
        "model_name": "digits",
        "model_version": "3",
        "id": "\u2028 7",
        "outputs": [
            {
                "name": "probabilities",
                "datatype": "FP32",
                "shape": [2, 3],
                "data": pytest.approx([0.25, 0.5, 0.25, 1e-9, 0, 1]),
            },
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["ü", "c"]},
        ],
    }


def test_binary_answers_follow_the_json_in_its_order():
    outputs = (Wanted("label", binary=True), Wanted("probabilities", binary=True))

    body, length = written(Asked((b"", b""), outputs), COMPUTED)

    sizes = [o["parameters"]["binary_data_size"] for o in json.loads(body[:length])["outputs"]]
    labels, rows = packed(["ü", "c"]), np.stack(COMPUTED.odds).astype("<f4").tobytes()
    assert sizes == [len(labels), len(rows)]
    assert body[length:] == labels + rows


def test_classification_names_the_best_with_value_and_index():
    for classes, given_ in ((1, 1), (2, 2), (99, 3)):
        outputs = (Wanted("probabilities", binary=False, classes=classes),)
        output = json.loads(written(Asked((b"", b""), outputs), COMPUTED)[0])["outputs"][0]
        assert (output["datatype"], output["shape"]) == ("BYTES", [2, given_])
        assert output["data"][0] == "0.5:1:ü"
    assert output["data"][1:3] == ["0.25:0:a:b", "0.25:2:c"]  # the first of equals first
    assert output["data"][4] == "1e-09:0:a:b"
