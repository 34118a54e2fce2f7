"""The inference protocol over a real replica: every call under /v2, and every refusal of it."""

import base64
import gzip
import hashlib
import json
import struct

import numpy as np
import pytest

from adapters_store import plain
from adapters_store.errors import EffectFailedError
from adapters_store.pixels import pixels
from serving.errors import OverloadedError

ADMIN = {"Authorization": "Bearer secret-admin"}


def asked(*images, outputs=None, **changes):
    """A request as JSON."""
    data = [base64.b64encode(image).decode() for image in images]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": data}
    body = {"inputs": [tensor], **changes}
    return body if outputs is None else {**body, "outputs": outputs}


def infer(client, *images, task="digits", headers=None, **changes):
    """One call."""
    url = f"/v2/models/{task}/infer"
    return client.post(url, json=asked(*images, **changes), headers=headers)


def test_the_server_says_what_it_is_and_how_it_is(door):
    client, _ = door

    server = client.get("/v2").json()
    assert (server["name"], server["extensions"]) == (
        "rootstock",
        ["binary_tensor_data", "classification", "model_repository"],
    )
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


def test_a_task_is_a_model_and_its_releases_are_versions(door, publish):
    client, replica = door
    publish("digits", "linear", seed=9, labels=6)
    replica.follower.catch_up()

    model = client.get("/v2/models/digits").json()

    assert model == {
        "name": "digits",
        "versions": ["1", "2"],
        "platform": "rootstock",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 6]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    assert client.get("/v2/models/digits/versions/1").json() == model
    assert client.get("/v2/models/digits/versions/1/ready").json() == {
        "name": "digits",
        "ready": True,
    }


def test_an_inference_is_the_plain_paths(door, tiny, make_adapter, png):
    client, _ = door
    adapter = make_adapter(tiny, "alore", "digits", labels=6)
    wanted = plain.logits(tiny, adapter, pixels(png, adapter.manifest.preprocess)[None])[0]
    odds = np.exp(wanted - wanted.max())

    answer = infer(client, png, png, id="a 7")

    got = answer.json()
    assert (got["model_name"], got["model_version"], got["id"]) == ("digits", "1", "a 7")
    probabilities, label = got["outputs"]
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [2, 6])
    assert probabilities["data"] == pytest.approx([*odds / odds.sum()] * 2, abs=1e-4)
    assert label == {
        "name": "label",
        "datatype": "BYTES",
        "shape": [2],
        "data": [f"label {wanted.argmax()}"] * 2,
    }


def test_answers_are_those_of_predict_and_say_the_same_beside_the_body(door, png):
    client, _ = door
    kind = {"Content-Type": "image/png"}
    predicted = client.post("/v1/tasks/flowers:predict", content=png, headers=kind)

    answer = infer(
        client,
        png,
        task="flowers",
        outputs=[{"name": "probabilities", "parameters": {"classification": 2}}],
    )

    best = [(p["probability"], p["index"], p["label"]) for p in predicted.json()["predictions"]]
    rows = [text.split(":") for text in answer.json()["outputs"][0]["data"]]
    assert [(int(i), label) for _, i, label in rows] == [b[1:] for b in best[:2]]
    assert [float(p) for p, _, _ in rows] == pytest.approx([b[0] for b in best[:2]])
    for header in ("x-adapter-digest", "x-generation"):
        assert answer.headers[header] == predicted.headers[header]
    assert answer.headers["server-timing"].startswith("decode;dur=")


def test_binary_and_compressed_calls_are_answered_like_json(door, png):
    client, _ = door
    tail = struct.pack("<I", len(png)) + png
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1, 1]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(tail)}}]})
    lengths = {"Inference-Header-Content-Length": str(len(head))}
    plain_answer = infer(client, png).json()

    for coding, body in (("", head.encode() + tail), ("gzip", gzip.compress(head.encode() + tail))):
        answer = client.post(
            "/v2/models/digits/infer", content=body, headers=lengths | {"Content-Encoding": coding}
        )
        assert answer.json() == plain_answer


def test_a_bare_image_is_answered_in_binary(door, png):
    client, _ = door

    answer = client.post(
        "/v2/models/digits/infer", content=png, headers={"Inference-Header-Content-Length": "0"}
    )

    length = int(answer.headers["inference-header-content-length"])
    outputs = json.loads(answer.content[:length])["outputs"]
    assert answer.headers["content-type"] == "application/octet-stream"
    row = np.frombuffer(answer.content[length:][: 6 * 4], "<f4")
    assert row.tolist() == pytest.approx(infer(client, png).json()["outputs"][0]["data"])
    assert sum(o["parameters"]["binary_data_size"] for o in outputs) == len(answer.content) - length


def test_a_version_answers_by_number_and_by_alias(door, publish, png):
    client, replica = door
    publish("digits", "linear", seed=9, labels=4)
    replica.store.alias("digits", "old", 1, by="test")
    replica.follower.catch_up()

    for task, version in (
        ("digits", "2"),
        ("digits/versions/1", "1"),
        ("digits/versions/old", "1"),
        ("digits@old", "1"),
        ("digits%402", "2"),
    ):
        answer = infer(client, png, task=task).json()
        assert (answer["model_name"], answer["model_version"]) == ("digits", version)


def test_all_images_of_a_call_are_one_releases(door, publish, png):
    """A split picks once for the call: rows of two releases would not fit into one tensor."""
    client, replica = door
    publish("digits", "linear", seed=9, labels=4)
    replica.store.split("digits", {1: 1, 2: 1}, by="test")
    replica.follower.catch_up()

    shapes = {
        (answer["model_version"], answer["outputs"][0]["shape"][1])
        for i in range(12)
        for answer in [infer(client, png, png, headers={"X-Route-Key": f"k{i}"}).json()]
    }

    assert shapes == {("1", 6), ("2", 4)}


def test_a_release_that_fails_only_now_leaves_the_one_before_answering(
    door, publish, png, monkeypatch
):
    """As on /v1: an engine may find out after the call came in. Who named the release is told."""
    client, replica = door
    infer(client, png)
    newest = hashlib.sha256(publish("digits", "linear", seed=9, labels=4)).hexdigest()
    replica.follower.catch_up()
    assert infer(client, png).json()["model_version"] == "2"
    compute, failed = replica.engines.compute, []

    async def failing(sample):
        if sample.route.digest == newest:
            failed.append(newest)
            raise EffectFailedError("digits", ("other answers",))
        return await compute(sample)

    monkeypatch.setattr(replica.engines, "compute", failing)
    monkeypatch.setattr(replica.engines, "refused", failed.__contains__)

    answer = infer(client, png, png).json()

    assert (answer["model_version"], answer["outputs"][0]["shape"]) == ("1", [2, 6])
    image = {"Content-Type": "image/png"}
    alike = client.post("/v1/tasks/digits:predict", content=png, headers=image).json()
    assert alike["release"] == 1
    assert infer(client, png, task="digits@2").status_code == 503


def test_unknown_models_and_versions_are_404s_in_the_protocols_own_words(door):
    client, _ = door

    for call in ("birds", "birds/ready", "birds/infer", "digits/versions/9", "digits/versions/x"):
        method = "POST" if call.endswith("infer") else "GET"
        answer = client.request(method, f"/v2/models/{call}", content=b"not looked at")

        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json()) == {"error"}
        assert call.partition("/")[0] in answer.json()["error"]


def test_paths_and_verbs_that_are_none_are_refused_in_the_protocols_own_words(door):
    client, _ = door

    for answer, status in (
        (client.get("/v2/models/digits/config"), 404),
        (client.get("/v2/models/digits/infer"), 405),
        (client.post("/v2"), 405),
    ):
        assert answer.status_code == status
        assert set(answer.json()) == {"error"}
    assert "title" in client.get("/v22").json()


def test_bad_calls_are_refused_in_the_protocols_own_words(replica_of, publish, http):
    publish("digits")
    client = http(replica_of(body_bytes=100_000))

    for body, status, headers in (
        (b"", 400, {}),
        (b"{}", 400, {}),
        (b"{}", 400, {"Inference-Header-Content-Length": "3"}),
        (b"{}", 400, {"Inference-Header-Content-Length": "x"}),
        (b"{}", 400, {"Content-Encoding": "gzip"}),
        (b"{}", 415, {"Content-Encoding": "br"}),
        (gzip.compress(b" " * 200_000, mtime=0), 413, {"Content-Encoding": "gzip"}),
        (b"no picture", 400, {"Inference-Header-Content-Length": "0"}),
        (b"{}", 504, {"X-Request-Deadline-Ms": "0"}),
        (b"{}", 503, {"X-Min-Generation": "99", "X-Request-Deadline-Ms": "1000"}),
    ):
        answer = client.post("/v2/models/digits/infer", content=body, headers=headers)

        assert answer.status_code == status, (body, headers)
        assert set(answer.json()) == {"error"}
        assert ("retry-after" in answer.headers) == (status == 503)


def test_a_damaged_call_is_answered_or_said_to_be_bad(door, png):
    """Never a 500, wherever the damage is."""
    client, _ = door
    head = json.dumps(asked(outputs=[{"name": "label"}], id="7")).replace("[0]", "[1]")
    head = head.replace('"data": []', f'"parameters": {{"binary_data_size": {len(png) + 4}}}')
    body = head.encode() + struct.pack("<I", len(png)) + png
    lengths = {"Inference-Header-Content-Length": str(len(head))}
    assert client.post("/v2/models/digits/infer", content=body, headers=lengths).status_code == 200
    rng = np.random.default_rng(0)

    for _ in range(40):
        damaged = bytearray(body)
        damaged[rng.integers(len(head) + 60)] = rng.integers(256)
        cut = bytes(damaged[: rng.choice([len(body), rng.integers(len(body))])])
        answer = client.post("/v2/models/digits/infer", content=cut, headers=lengths)
        assert answer.status_code in (200, 400), cut
        assert set(answer.json()) == {"error"} or answer.json()["outputs"]


def test_one_bad_image_fails_the_call_and_is_named(door, png):
    client, _ = door

    answer = infer(client, png, b"no picture", png)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("image 1: ")


def test_a_call_that_gives_itself_no_time_is_not_computed(door, png):
    client, _ = door

    assert infer(client, png, parameters={"timeout": 1}).status_code == 504
    assert infer(client, png, parameters={"timeout": 30_000_000}).status_code == 200


def test_too_many_images_and_too_many_calls_are_refused(replica_of, publish, http, png):
    publish("digits")
    replica = replica_of(files_max=2)
    client = http(replica)

    assert infer(client, png, png, png).status_code == 400
    with pytest.MonkeyPatch.context() as patch:
        why = OverloadedError("too many", 1)
        patch.setattr(replica.turns, "refusal", lambda task, until: why)
        full = client.post("/v2/models/digits/infer", content=b"not looked at")
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")


def test_calls_are_counted_with_those_of_predict(door, png):
    client, _ = door
    infer(client, png)
    infer(client, b"no picture")
    infer(client, png, task="birds")

    text = client.get("/metrics").text

    for labels in (
        'outcome="ok",replica="replica-0",task="digits"',
        'outcome="image_invalid",replica="replica-0",task="digits"',
        'outcome="task_not_found",replica="replica-0",task="__unknown__"',
    ):
        assert f"rootstock_requests_total{{{labels}}} 1.0" in text


def test_tokens_open_what_their_scopes_name(replica_of, publish, http, png):
    publish("digits")
    tokens = [
        {"sha256": hashlib.sha256(t).hexdigest(), "scopes": s}
        for t, s in ((b"secret-admin", ["admin", "predict"]), (b"secret-predict", ["predict"]))
    ]
    client = http(replica_of(tokens=tokens))
    reader = {"Authorization": "Bearer secret-predict"}

    for call, path in (
        ("GET", "/v2"),
        ("GET", "/v2/models/digits"),
        ("GET", "/v2/models/digits/ready"),
        ("POST", "/v2/models/digits/infer"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/digits/load"),
    ):
        refused = client.request(call, path)
        assert (refused.status_code, set(refused.json())) == (401, {"error"})
        assert refused.headers["www-authenticate"] == "Bearer"
    assert infer(client, png, headers=reader).status_code == 200
    for what in ("load", "unload"):
        path = f"/v2/repository/models/digits/{what}"
        assert client.post(path, headers=reader).status_code == 403
        assert client.post(path, headers=ADMIN).status_code == 200
    assert client.get("/v2/health/ready").status_code == 200


def test_every_call_is_in_the_api_description(door):
    client, _ = door

    paths = client.get("/openapi.json").json()["paths"]

    assert {p for p in paths if p.startswith("/v2")} == {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{task}",
        "/v2/models/{task}/ready",
        "/v2/models/{task}/infer",
        "/v2/models/{task}/versions/{release}",
        "/v2/models/{task}/versions/{release}/ready",
        "/v2/models/{task}/versions/{release}/infer",
        "/v2/repository/index",
        "/v2/repository/models/{task}/load",
        "/v2/repository/models/{task}/unload",
    }
