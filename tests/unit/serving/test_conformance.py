"""Requests of every kind, and answers held to `/openapi.json`: schemathesis with all its phases."""

import base64
import hashlib
import os
import re

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.engine import events, from_schema
from schemathesis.openapi.checks import UseAfterFree

from adapters_store import artifact
from serving import api
from serving.door import Door
from tests.unit.serving.conftest import Alone

SEARCH = bool(os.environ.get("ROOTSTOCK_SEARCH"))
EXAMPLES = 200 if SEARCH else 12  # of each operation, beside those that cover its schema
ADMIN = "secret-of-admin"
LENGTH = "inference-header-content-length"
# A schema says which requests are well formed. It cannot say what this moment alone decides: which
# generation a task is at (412), which one a replica knows (503), what can be done in time (504).
MOMENT = ["412", "503", "504"]
CONFIG = {
    "headers": {"Authorization": f"Bearer {ADMIN}"},
    **({} if SEARCH else {"seed": 7}),
    "generation": {"max-examples": EXAMPLES, "deterministic": not SEARCH, "database": "none"},
    "checks": {
        "negative_data_rejection": {"expected-statuses": [*map(str, range(400, 423)), *MOMENT]},
        "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", *MOMENT]},
        "positive_data_acceptance": {
            "expected-statuses": ["2xx", "401", "403", "404", "409", *MOMENT]
        },
    },
}


# Calls that answer something else than an error at least once, whatever is drawn.
ANSWERED = {
    "GET /v1/tasks",
    "GET /v1/tasks/{task}",
    "PUT /v1/tasks/{task}",
    "POST /v1/tasks/{task}:predict",
    "POST /v1/predict",
    "POST /v2/models/{task}/infer",
    "POST /v2/repository/index",
}


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Every other name is one that exists, as otherwise hardly any would be."""
    name = path_parameters.get("task") if path_parameters else None
    if isinstance(name, str) and len(name) % 2:
        return {**path_parameters, "task": "digits"}
    return path_parameters


@schemathesis.hook
def map_query(context, query):
    """The same of a call for many tasks."""
    if query and isinstance(query.get("task"), list):
        return {**query, "task": ["digits", *query["task"]]}
    return query


@schemathesis.hook
def map_body(context, body):
    """A tensor's shape is the length of its data, and an output is named once: schemas cannot."""
    if isinstance(body, dict) and context.operation.path.endswith("/infer"):
        for tensor in (t for t in body.get("inputs") or () if isinstance(t, dict)):
            if isinstance(tensor.get("data"), list) and isinstance(tensor.get("shape"), list):
                tensor["shape"] = [len(tensor["data"])]
        if isinstance(body.get("outputs"), list):
            body["outputs"] = body["outputs"][:1]
    return body


@schemathesis.check
def a_5xx_is_one_that_was_asked_for(ctx, response, case):
    """Nothing here is busy or broken, so only a header of the request can bring one about."""
    if response.status_code >= 500:
        named = {name.lower() for name in case.headers}
        assert named & {"x-min-generation", "x-request-deadline-ms"}, response.text


@pytest.fixture
def app(replica_of, publish, monkeypatch):
    """A replica with two tasks, whose callers need a token, and which waits for no generation."""
    ensure = Door.ensure
    monkeypatch.setattr(Door, "ensure", lambda door, wanted, _: ensure(door, wanted, 0.01))
    publish("digits", "alore", labels=6)
    publish("flowers", "linear", seed=1, labels=3)
    token = {"sha256": hashlib.sha256(ADMIN.encode()).hexdigest(), "scopes": ["admin", "predict"]}
    replica = replica_of(tokens=[token])
    return api.build(replica, Alone(replica))


@pytest.fixture
def bodies(tiny, make_adapter, png):
    """What no schema can describe: bytes that are a picture, or an adapter."""
    adapter = artifact.write(make_adapter(tiny, "linear", "digits", labels=6, seed=9))
    schemathesis.openapi.media_type("image/*", st.just(png))
    schemathesis.openapi.media_type("application/octet-stream", st.just(adapter))
    schemathesis.openapi.format("byte", st.just(base64.b64encode(png).decode()))
    schemathesis.openapi.format("binary", st.just(png))

    @schemathesis.hook
    def before_call(context, case, kwargs):
        """No length, and all of the body is JSON; a length of 0, and all of it is one image."""
        if case.operation.path.endswith("/infer"):
            case.headers.pop(LENGTH, None)
            if case.media_type == "application/octet-stream":
                case.headers[LENGTH], case.body = "0", png


_PASSED_OVER = ("query: violates `additionalProperties`", "path: violates ")


def explained(failure, answer) -> bool:
    """Whether there is a reason for what looks wrong."""
    if isinstance(failure, UseAfterFree):
        return "/history" in failure.usage  # it outlives its task: who retired it, and why
    if not isinstance(failure, AcceptedNegativeData):
        return False
    if failure.operation == "POST /v1/predict":
        # A task that does not exist is answered before anybody looks at the body.
        results = answer.json()["results"]
        if all(result.get("code") == "task_not_found" for result in results):
            return True
    # What means nothing here is passed over, as HTTP has it; a hook puts names in paths right.
    invalid = re.findall(r"^\s*- (.+)$", failure.message, re.MULTILINE)
    if invalid and all(part.startswith(_PASSED_OVER) for part in invalid):
        return True
    return "in header - object with unexpected properties" in failure.message


def failures(recorder) -> dict[tuple[str, str], str]:
    """By operation and kind: what was wrong, the request to repeat it, and the answer."""
    found = {}
    for ident, checks in recorder.checks.items():
        exchange = recorder.interactions.get(ident)
        answer = exchange.response if exchange else None
        for failed in (check.failure_info for check in checks if check.failure_info is not None):
            if not explained(failed.failure, answer):
                kind = (failed.failure.operation, failed.failure.title)
                said = answer.content[:300] if answer else b""
                found[kind] = f"{failed.failure.message}\n{failed.code_sample[-2000:]}\n{said}"
    return found


def run(schema):
    """(failures, labels of calls, labels of those that were answered well, phases) of one run."""
    found, called, answered, phases = {}, set(), set(), set()
    for event in from_schema(schema).execute():
        match event:
            case events.ScenarioFinished(recorder=recorder, phase=phase):
                phases.add(phase.value)
                found |= failures(recorder)
                for ident, exchange in recorder.interactions.items():
                    label = recorder.cases[ident].value.operation.label
                    called.add(label)
                    if exchange.response and exchange.response.status_code < 300:
                        answered.add(label)
            case events.NonFatalError(value=error, label=label):
                found[label, "broken"] = repr(error)
            case events.FatalError(exception=error):
                raise error
    return found, called, answered, phases


@pytest.mark.slow
def test_no_answer_is_outside_of_the_document(app, bodies):
    """Every phase and every check, chains of calls among them.

    Once without DELETE, which leaves little to ask, and once for the life of tasks with it.
    """
    config = schemathesis.Config.from_dict(CONFIG)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)

    found, called, answered, phases = run(schema.exclude(method="DELETE"))
    later, called_later, _, phases_later = run(schema.include(path_regex="^/v1/tasks"))

    found |= later
    assert not found, "\n\n".join(f"{where}: {text}" for where, text in found.items())
    every = {operation.ok().label for operation in schema.get_all_operations()}
    assert called | called_later == every
    assert {"coverage", "fuzzing", "stateful"} <= phases & phases_later
    assert answered >= ANSWERED
