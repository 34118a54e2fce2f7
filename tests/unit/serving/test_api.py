"""The door, over a real replica: every call of the contract, and every refusal of it."""

import base64
import hashlib

import numpy as np
import pytest

from adapters_store import plain
from adapters_store.pixels import pixels
from serving.errors import OverloadedError
from tests.unit.serving.conftest import PROBLEM, predict

TOKEN = {"Authorization": "Bearer secret-admin"}


def test_a_prediction_is_the_plain_paths(door, tiny, make_adapter, png):
    client, _ = door
    adapter = make_adapter(tiny, "alore", "digits", labels=6)
    picture = pixels(png, adapter.manifest.preprocess)
    wanted = plain.logits(tiny, adapter, picture[None])[0]

    answer = predict(client, body=png)

    assert answer.status_code == 200
    got = answer.json()
    assert (got["task"], got["release"], got["path"]) == ("digits", 1, "mixed")
    assert got["request_id"] == "request-1"
    assert [p["index"] for p in got["predictions"]] == list(np.argsort(-wanted)[:5])
    assert got["predictions"][0]["label"] == f"label {wanted.argmax()}"
    odds = np.exp(wanted - wanted.max())
    assert got["predictions"][0]["probability"] == pytest.approx(odds.max() / odds.sum(), abs=1e-4)
    assert answer.headers["x-adapter-digest"] == got["digest"]
    assert answer.headers["x-generation"] == "2"
    assert [s.split(";")[0] for s in answer.headers["server-timing"].split(", ")] == [
        "decode",
        "queue",
        "compute",
    ]


def same(one, other) -> bool:
    """Whether two answers are alike, up to what their companions in a batch change of rounding."""
    exact = [[{k: v for k, v in p.items() if k != "probability"} for p in a] for a in (one, other)]
    odds = [[p["probability"] for p in a] for a in (one, other)]
    return exact[0] == exact[1] and odds[0] == pytest.approx(odds[1], rel=1e-5)


def test_raw_form_and_json_bodies_are_answered_alike(door, png):
    client, _ = door
    raw = predict(client, body=png).json()
    octets = predict(client, body=png, kind="application/octet-stream").json()
    coded = client.post(
        "/v1/tasks/digits:predict", json={"image": base64.b64encode(png).decode()}
    ).json()
    form = client.post("/v1/tasks/digits:predict", files=[("file", png)]).json()

    assert raw == octets == coded == form["results"][0]


def test_a_form_with_several_files_answers_each_in_order(door, png):
    client, _ = door

    results = client.post(
        "/v1/tasks/digits:predict", files=[("file", png), ("file", b"no picture"), ("file", png)]
    ).json()["results"]

    assert same(results[0]["predictions"], results[2]["predictions"])
    assert results[1]["status"] == 400


def test_top_k_is_obeyed_and_bounded(door, png):
    client, _ = door

    for asked, given in ((1, 1), (3, 3), (1000, 6)):
        url = f"/v1/tasks/digits:predict?top_k={asked}"
        answer = client.post(url, content=png, headers={"Content-Type": "image/png"})
        assert len(answer.json()["predictions"]) == given
    for asked in ("0", "1001", "x"):
        url = f"/v1/tasks/digits:predict?top_k={asked}"
        answer = client.post(url, content=png, headers={"Content-Type": "image/png"})
        assert answer.status_code in (400, 422)
        assert answer.headers["content-type"] == PROBLEM


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "image/png", 400),
        (b"no picture", "image/png", 400),
        (b"\x89PNG\r\n\x1a\n truncated", "image/png", 400),
        (b"{}", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"image": "!"}', "application/json", 400),
        (b'{"image": 1}', "application/json", 400),
        (b'{"image": "", "x": 1}', "application/json", 400),
        (b"x", "text/plain", 415),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=y", 400),
    ],
)
def test_bad_bodies_are_refused_with_a_problem(door, body, kind, status):
    client, _ = door

    answer = predict(client, body=body, kind=kind)

    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json()["status"] == status


def test_a_body_over_the_limit_is_refused(replica_of, publish, http):
    publish("digits")
    client = http(replica_of(body_bytes=2048))

    def endless():
        for _ in range(100):
            yield b"x" * 100

    announced = predict(client, body=b"x" * 4096)
    streamed = client.post(
        "/v1/tasks/digits:predict", content=endless(), headers={"Content-Type": "image/png"}
    )

    assert announced.status_code == streamed.status_code == 413


def test_unknown_tasks_releases_paths_and_verbs_are_404s_and_405s(door, png):
    client, _ = door

    for task in ("birds", "digits@2", "digits@nightly", "digits@", "@1", "DIGITS"):
        assert predict(client, task, png).status_code == 404
    for answer in (client.get("/nowhere"), client.post("/v1/tasks/digits:explode", content=b"{}")):
        assert answer.status_code == 404
        assert answer.headers["content-type"] == PROBLEM
    assert client.get("/v1/tasks/birds").status_code == 404
    wrong = client.patch("/v1/tasks/digits")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "DELETE, GET, PUT")
    wrong = client.put("/v1/tasks/digits:activate")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_an_unknown_task_is_refused_before_its_image_is_looked_at(door):
    client, _ = door

    assert predict(client, "birds", b"no picture", "text/plain").status_code == 404


def test_deadlines_and_generations_that_cannot_be_met_are_said(door, png):
    client, _ = door

    assert predict(client, body=png, X_Request_Deadline_Ms="0").status_code == 504
    behind = predict(client, body=png, X_Min_Generation="99", X_Request_Deadline_Ms="300")
    assert behind.status_code == 503
    assert behind.headers["retry-after"] == "1"
    for header in ("X_Request_Deadline_Ms", "X_Min_Generation"):
        assert predict(client, body=png, **{header: "soon"}).status_code == 400


def test_health_readiness_metrics_and_docs(door, png):
    client, _ = door
    predict(client, body=png)

    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["generation"]) == (200, 2)
    text = client.get("/metrics").text
    assert 'rootstock_requests_total{outcome="ok",replica="replica-0",task="digits"} 1.0' in text
    assert "rootstock_replicas_scraped 1.0" in text
    assert client.get("/openapi.json").json()["info"]["title"] == "Rootstock"
    assert client.get("/docs").status_code == 200


def test_tokens_open_what_their_scopes_name(replica_of, publish, http, png):
    publish("digits")
    tokens = [
        {"sha256": hashlib.sha256(t).hexdigest(), "scopes": s}
        for t, s in ((b"secret-admin", ["admin", "predict"]), (b"secret-predict", ["predict"]))
    ]
    client = http(replica_of(tokens=tokens))

    assert predict(client, body=png).status_code == 401
    assert predict(client, body=png, Authorization="Bearer wrong").status_code == 401
    assert predict(client, body=png, Authorization="Bearer secret-predict").status_code == 200
    reader = {"Authorization": "Bearer secret-predict"}
    assert client.delete("/v1/tasks/digits", headers=reader).status_code == 403
    assert client.delete("/v1/tasks/digits", headers=TOKEN).status_code == 200


def test_without_tokens_changes_need_a_loopback_server(replica_of, publish, http, png):
    publish("digits")
    client = http(replica_of(host="0.0.0.0"))

    assert predict(client, body=png).status_code == 200
    answer = client.delete("/v1/tasks/digits", headers={"X-Forwarded-For": "127.0.0.1"})
    assert answer.status_code == 403


def test_orders_that_a_web_page_could_send_are_refused(door):
    client, _ = door

    answer = client.post(
        "/v1/tasks/digits:activate",
        content=b'{"release": 1}',
        headers={"Content-Type": "text/plain"},
    )

    assert answer.status_code == 415
    assert client.post("/v1/tasks/digits:activate", json={"release": True}).status_code == 400


@pytest.mark.parametrize("charset", ["undefined", "a\\0b", "utf-9"])
def test_forms_in_no_charset_are_refused(door, charset):
    client, _ = door
    kind = f"multipart/form-data; boundary=y; charset={charset}"
    body = b'--y\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--y--\r\n'

    assert predict(client, body=body, kind=kind).status_code == 400


def test_a_request_too_many_is_refused_before_its_body(door, png, monkeypatch):
    client, replica = door
    why = OverloadedError("it would wait for 3 s", 4)
    monkeypatch.setattr(replica.turns, "refusal", lambda task, until: why)

    answer = predict(client, body=b"not looked at")

    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "4"
    many = client.post("/v1/predict?task=digits", content=b"not looked at")
    assert (many.status_code, many.headers["retry-after"]) == (503, "4")
    assert predict(client, "nowhere", png).status_code == 404


def test_nobody_may_invent_metric_labels(door):
    client, _ = door
    for i in range(5):
        client.post(f"/v1/tasks/invented-{i}:predict?top_k=0", content=b"")

    assert "invented" not in client.get("/metrics").text
