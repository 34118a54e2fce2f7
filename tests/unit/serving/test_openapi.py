"""The API's description: a row for every route, and a page that works without any network."""

import re

import pytest

from serving.openapi import CALLS

ELSEWHERE = re.compile(r"""(?:src|href|url\()\s*[=:]?\s*["']?(https?:)?//""")


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """(document, client) of servers without and with tokens; no replica is needed for either."""
    from types import SimpleNamespace

    from starlette.testclient import TestClient

    from serving import api
    from serving.config import Settings

    def build(**changes):
        settings = Settings(store="memory://", **changes)
        app = api.build(SimpleNamespace(settings=settings, telemetry=None), None)
        return app.openapi(), TestClient(app)

    token = {"sha256": "0" * 64, "scopes": ["predict"]}
    return {"open": build(access_lines=0), "closed": build(tokens=[token], access_lines=0)}


def operations(document):
    return {
        f"{verb.upper()} {path}": operation
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    }


def test_every_route_has_a_row_and_every_row_a_route(described):
    document, _ = described["open"]

    assert set(operations(document)) == set(CALLS)


def test_tokens_are_asked_for_where_there_are_any(described):
    opened, closed = (operations(described[how][0]) for how in ("open", "closed"))

    assert not any("security" in operation for operation in opened.values())
    unlocked = {name for name, operation in closed.items() if "security" not in operation}
    assert unlocked == {name for name, call in CALLS.items() if call.scope is None}
    assert {"/healthz", "/readyz", "/metrics"} <= {name.partition(" ")[2] for name in unlocked}


def test_every_refusal_is_a_problem_or_the_protocols_own_error(described):
    document, _ = described["closed"]

    for name, operation in operations(document).items():
        kind = "application/json" if " /v2" in name else "application/problem+json"
        refusals = {s: a for s, a in operation["responses"].items() if int(s) >= 400}
        assert {"431", "503"} <= set(refusals)
        assert all(kind in answer["content"] for answer in refusals.values()), name


def test_the_page_is_whole_without_any_other_server(described):
    """Nothing is fetched from elsewhere, nothing is sent elsewhere, and its files are here."""
    _, client = described["open"]

    page = client.get("/docs")

    assert 'validatorUrl": null' in page.text
    names = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert sorted(names) == [
        "/docs/favicon.png",
        "/docs/swagger-ui-bundle.js",
        "/docs/swagger-ui.css",
    ]
    assert not ELSEWHERE.search(page.text)
    for answer in (page, *map(client.get, names)):
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        rules = dict(
            r.strip().split(" ", 1) for r in answer.headers["content-security-policy"].split(";")
        )
        assert rules["default-src"] == "'none'"
        assert {word for rule in rules.values() for word in rule.split()} <= {
            "'none'", "'self'", "'unsafe-inline'", "data:",
        }  # fmt: skip
