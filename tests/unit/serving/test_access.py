"""The line of a request: what it says, what it never says, and how many there are."""

import asyncio
import logging
from contextlib import suppress

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from adapters_store import artifact
from serving import access
from serving.access import AccessLog, Allowance

LOGGER = "serving.access"


@pytest.fixture
def lines(caplog):
    """The fields of every line so far."""
    caplog.set_level(logging.INFO, LOGGER)
    return lambda: [vars(record) for record in caplog.records if record.name == LOGGER]


@pytest.fixture
def door(replica_of, publish, http):
    publish("digits", "linear", labels=6)
    return http(replica_of())


def predict(door, path="/v1/tasks/digits:predict", body=b"no picture", **headers):
    return door.post(path, content=body, headers={"Content-Type": "image/png", **headers})


def test_a_prediction_is_told_with_release_stages_and_request_id(door, lines, png):
    predict(door, body=png)

    (line,) = lines()
    told = {name: line[name] for name in ("call", "status", "task", "release", "path", "answers")}
    assert told == {
        "call": "POST /v1/tasks/{task}:predict",
        "status": 200,
        "task": "digits",
        "release": 1,
        "path": "mixed",
        "answers": 1,
    }
    assert (line["request_id"], line["generation"]) == ("request-1", 1)
    assert all(line[f"{stage}_ms"] >= 0 for stage in ("decode", "queue", "compute"))


def test_a_refusal_is_told_with_its_code(door, lines):
    predict(door)

    (line,) = lines()
    assert (line["status"], line["code"], line["task"]) == (400, "image_invalid", "digits")


def test_a_change_is_told_with_who_made_it_though_lines_are_spent(replica_of, http, lines):
    door = http(replica_of(access_lines=0))

    door.get("/v1/tasks")
    door.delete("/v1/tasks/absent")

    (line,) = lines()
    assert (line["call"], line["by"]) == ("DELETE /v1/tasks/{task}", "anonymous")


def test_no_secret_and_no_text_of_a_client_is_written(door, caplog, tiny, make_adapter):
    caplog.set_level(logging.DEBUG)
    secret = {"Authorization": "Bearer hidden", "Cookie": "hidden", "X-Why": "hidden"}

    predict(door, "/v1/tasks/digits:predict?key=hidden", b"hidden", **secret)
    predict(door, "/v1/tasks/hidden Text:predict", b"hidden", **secret)
    door.get("/hidden", headers=secret)
    door.put("/v1/tasks/digits", content=b"hidden", headers=secret)
    door.put(
        "/v1/tasks/digits?why=hidden",
        content=artifact.write(make_adapter(tiny, "linear")),
        headers=secret,
    )

    ours = [vars(r) for r in caplog.records if r.name.startswith(("serving", "adapters_store"))]
    assert len(ours) >= 5
    assert "hidden" not in repr(ours)


def test_probes_are_told_when_something_is_wrong(replica_of, http, lines, monkeypatch):
    replica = replica_of()
    door = http(replica)
    for path in ("/healthz", "/readyz", "/metrics", "/v2/health/live"):
        door.get(path)
    assert lines() == []

    monkeypatch.setattr(replica, "healthy", lambda: False)
    door.get("/healthz")

    assert [line["status"] for line in lines()] == [503]


def test_so_many_lines_a_second_and_a_count_of_the_others():
    allowance = Allowance(2)

    assert [allowance.take(0.1 * i) for i in range(5)] == [0, 0, None, None, None]
    assert [allowance.take(1.5), allowance.take(1.6)] == [3, 0]
    assert Allowance(0).take(9.0) is None


def told_by(app, lines, **scope):
    """What is written of one request to an application."""

    class Fleet:
        def request_id(self):
            return "request-2"

    async def talk() -> None:
        async def receive():
            raise AssertionError

        async def send(message):
            pass

        whole = {"type": "http", "method": "GET", "path": "/", **scope}
        await AccessLog(app, Fleet(), 9)(whole, receive, send)

    with suppress(ZeroDivisionError, asyncio.CancelledError):
        asyncio.run(talk())
    (line,) = lines()
    return line


def test_a_client_that_leaves_is_told(lines):
    async def app(scope, receive, send):
        raise asyncio.CancelledError

    assert told_by(app, lines)["status"] == 499


def test_what_breaks_is_told_as_a_500(lines):
    async def app(scope, receive, send):
        raise ZeroDivisionError

    assert told_by(app, lines, method="X" * 99)["status"] == 500


def test_a_traced_request_has_the_same_facts_in_its_span(lines):
    tracer = TracerProvider().get_tracer("test")

    async def app(scope, receive, send):
        access.note(task="digits", release=3)

    with tracer.start_as_current_span("request") as span:
        told_by(app, lines)

    assert dict(span.attributes) == {"rootstock.task": "digits", "rootstock.release": 3}
    assert not trace.get_current_span().is_recording()
