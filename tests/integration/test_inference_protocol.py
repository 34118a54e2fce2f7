"""The Open Inference Protocol against a live server, spoken by Triton's own client, unmodified."""

import base64
import json
import urllib.request

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from adapters_store import artifact, plain
from adapters_store.pixels import pixels
from tests.picture_files import saved

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LABELS = 4


@pytest.fixture(scope="module")
def adapters(nano, make_adapter):
    """Two releases of one task."""
    return [make_adapter(nano, "lora", "digits", labels=LABELS, seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def server(adapters, pair):
    """A server behind HAProxy that has both and nothing else."""
    for adapter in adapters:
        publish = urllib.request.Request(
            f"{pair.url}/v1/tasks/digits?wait=true",
            data=artifact.write(adapter),
            method="PUT",
        )
        with urllib.request.urlopen(publish, timeout=60) as answer:
            assert answer.status == 201
    return pair


@pytest.fixture
def client(server):
    """Triton's client as its users make it."""
    with InferenceServerClient(server.url.removeprefix("http://")) as one:
        yield one


@pytest.fixture(scope="module")
def pictures():
    """Three files of noise."""
    rng = np.random.default_rng(0)
    return [saved(rng.integers(0, 256, (40, 50, 3), np.uint8), "PNG") for _ in range(3)]


def tensor(files, *, batched=False, binary=True):
    """The input of a call."""
    elements = np.array(files if binary else [base64.b64encode(f) for f in files], object)
    if batched:
        elements = elements[:, None]
    made = InferInput("image", list(elements.shape), "BYTES")
    made.set_data_from_numpy(elements, binary_data=binary)
    return [made]


@pytest.fixture(scope="module")
def expected(nano, adapters, pictures):
    """Probabilities by release, by the plain path: [releases, pictures, labels]."""
    batch = np.stack([pixels(p, adapters[0].manifest.preprocess) for p in pictures])
    logits = np.stack([plain.logits(nano, adapter, batch) for adapter in adapters])
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_health_metadata_and_index(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "3")
    assert not client.is_model_ready("birds")
    assert client.get_server_metadata()["name"] == "rootstock"
    model = client.get_model_metadata("digits")
    assert model["versions"] == ["1", "2"]
    assert [o["shape"] for o in model["outputs"]] == [[-1, LABELS], [-1]]
    assert client.get_model_repository_index() == [
        {"name": "digits", "version": "2", "state": "READY", "reason": ""}
    ]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_json_and_binary_calls_of_several_images(client, pictures, expected, binary, batched):
    outputs = [InferRequestedOutput(n, binary_data=binary) for n in ("label", "probabilities")]
    inputs = tensor(pictures, batched=batched, binary=binary)

    answer = client.infer("digits", inputs, outputs=outputs, request_id="call 7")

    probabilities = answer.as_numpy("probabilities")
    assert probabilities.dtype == np.float32
    assert np.abs(probabilities - expected[1]).max() < 1e-4
    best = [f"label {i}" for i in expected[1].argmax(-1)]
    assert [x.decode() if binary else x for x in answer.as_numpy("label")] == best
    assert answer.get_response()["id"] == "call 7"


def test_a_version_answers_when_it_is_asked_for(client, pictures, expected):
    for release in (1, 2):
        answer = client.infer("digits", tensor(pictures), model_version=str(release))

        assert answer.get_response()["model_version"] == str(release)
        assert np.abs(answer.as_numpy("probabilities") - expected[release - 1]).max() < 1e-4


def test_classification_names_the_best(client, pictures, expected):
    outputs = [InferRequestedOutput("probabilities", class_count=2)]

    answer = client.infer("digits", tensor(pictures), outputs=outputs)

    rows = answer.as_numpy("probabilities")
    assert rows.shape == (3, 2)
    for row, odds in zip(rows, expected[1], strict=True):
        order = np.argsort(-odds)[:2]
        parts = [element.decode().split(":") for element in row]
        assert [(int(i), label) for _, i, label in parts] == [(i, f"label {i}") for i in order]
        assert [float(value) for value, _, _ in parts] == pytest.approx(odds[order], abs=1e-4)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_calls_are_answered(client, pictures, expected, coding):
    answer = client.infer(
        "digits",
        tensor(pictures),
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )

    assert np.abs(answer.as_numpy("probabilities") - expected[1]).max() < 1e-4


def test_errors_say_what_is_wrong(client, pictures):
    for says, status, call in (
        ("birds", "404", lambda: client.infer("birds", tensor(pictures))),
        ("birds", "404", lambda: client.get_model_metadata("birds")),
        ("release .9", "404", lambda: client.infer("digits", tensor(pictures), model_version="9")),
        ("image 1", "400", lambda: client.infer("digits", tensor([pictures[0], b"none"]))),
        ("deadline|no answer", "504", lambda: client.infer("digits", tensor(pictures), timeout=1)),
    ):
        with pytest.raises(InferenceServerException, match=says) as caught:
            call()
        assert caught.value.status() == status
        assert "/" not in caught.value.message()


def test_load_and_unload_reach_every_replica(client, server, pictures):
    client.unload_model("digits")
    client.load_model("digits")

    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    held = [
        line
        for line in text.splitlines()
        if line.startswith("rootstock_resident_adapters") and 'tier="host"' in line
    ]
    assert [line.rpartition(" ")[2] for line in held] == ["1.0"] * server.settings.replicas
    assert client.infer("digits", tensor(pictures)).as_numpy("label").shape == (3,)


def test_the_call_that_curl_makes_is_answered(server, pictures):
    tensor_ = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "data": [base64.b64encode(pictures[0]).decode()],
    }
    request = urllib.request.Request(
        f"{server.url}/v2/models/digits/infer",
        data=json.dumps({"inputs": [tensor_]}).encode(),
        headers={"Content-Type": "application/json"},
    )

    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["model_name"] == "digits"
        assert len(answer.headers["x-adapter-digest"]) == 64
