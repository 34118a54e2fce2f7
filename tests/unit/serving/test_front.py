"""Headers that Serve obeys never reach it."""

import importlib

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serving import front
from serving.app import ENVIRONMENT


@pytest.fixture
def seen():
    """What an application behind the front sees of the headers that a client sends."""

    def echo(request):
        return JSONResponse([[k, v] for k, v in request.headers.items()])

    (middleware,) = front.middlewares()
    app = Starlette(routes=[Route("/", echo)])
    client = TestClient(middleware.cls(app, *middleware.args, **middleware.kwargs))

    def ask(*headers):
        if sum(len(value) for _, value in headers) > 10_000:
            return client.get("/", headers=headers)
        usual = {"host", "accept", "accept-encoding", "connection", "user-agent"}
        return [(k, v) for k, v in client.get("/", headers=headers).json() if k not in usual]

    return ask


@pytest.mark.parametrize(
    "name",
    [
        "x-request-timeout-seconds",
        "X-Request-Timeout-Seconds",
        "x-request-disconnect-disabled",
        "serve_multiplexed_model_id",
        "Serve-Multiplexed-Model-Id",
        "x-session-id",
        "x_session_id",
        "x-serve-router-anything",
    ],
)
def test_a_control_header_is_taken_off(seen, name):
    """However it is spelt, and as often as it is sent."""
    assert seen((name, "1"), (name, "2")) == []


def test_every_other_header_stays_as_it_is(seen):
    """Order and repetition included."""
    sent = [("x-min-generation", "7"), ("accept-language", "de"), ("x-route-key", "a")]

    assert seen(*sent) == sent


@pytest.mark.parametrize("name", ["trace-1", "01J.a_b:c", "a" * 128])
def test_a_plain_request_id_is_kept(seen, name):
    """Callers follow their requests by it."""
    assert seen(("x-request-id", name)) == [("x-request-id", name)]


@pytest.mark.parametrize("name", ["", "a b", 'x"y', "a" * 129, "é".encode(), "<script>"])
def test_a_strange_request_id_is_taken_off(seen, name):
    """It would be written to logs and sent back; Serve then makes one of its own."""
    assert seen(("x-request-id", name)) == []


def test_of_two_request_ids_the_first_counts(seen):
    """Whoever stands in front of us says which."""
    assert seen(("x-request-id", "a"), ("x-request-id", "b")) == [("x-request-id", "a")]


def test_too_many_headers_are_refused(seen):
    """A problem document, before the application."""
    answer = seen(*((f"x-{i}", "a" * 1000) for i in range(40)))

    assert answer.status_code == 431
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "the headers have more than 32768 bytes"


def test_a_server_that_leaves_refuses_what_comes(monkeypatch, tmp_path):
    """Not 404, which would say that the task is gone; and the connection is closed."""
    monkeypatch.setenv(front.LEAVING_VARIABLE, str(tmp_path / "leaving"))
    (middleware,) = front.middlewares()
    app = Starlette(routes=[Route("/", lambda request: JSONResponse("here"))])
    client = TestClient(middleware.cls(app, *middleware.args, **middleware.kwargs))
    before = client.get("/")

    (tmp_path / "leaving").touch()
    after, protocol = client.get("/"), client.get("/v2/models/digits")

    assert before.json() == "here"
    assert (after.status_code, after.json()["detail"]) == (503, "the server is stopping")
    assert (protocol.status_code, protocol.json()) == (503, {"error": "the server is stopping"})
    for answer in (after, protocol):
        assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")


def test_serve_is_told_where_the_front_is():
    """The name in the environment leads to the function."""
    module, _, name = ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].partition(":")

    assert getattr(importlib.import_module(module), name) is front.middlewares


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments:DeprecationWarning")
def test_the_list_covers_every_header_that_serve_reads():
    """A new release of Ray may add one: then this fails."""
    from ray.serve._private import constants

    names = {v for k, v in vars(constants).items() if k.startswith("SERVE_HTTP_REQUEST_")}
    names |= {constants.SERVE_MULTIPLEXED_MODEL_ID, constants.SERVE_SESSION_ID}
    read = {n.lower().replace("_", "-").encode() for n in names if isinstance(n, str)}

    assert read - {b"x-request-id"} == front.CONTROL
    assert constants.SERVE_INGRESS_ROUTER_HEADER_PREFIX.encode() == front.ROUTER
