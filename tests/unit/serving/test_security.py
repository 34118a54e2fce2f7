"""What docs/security.md promises: each promise has a test; those that fit nowhere else are here."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "security.md").read_text()
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def promises() -> list[str]:
    """Rows of tables whose last column is headed `test`."""
    rows, inside = [], False
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            inside = False
        elif re.fullmatch(r"\|.*\| test \|", line):
            inside = True
        elif inside and not re.fullmatch(r"[|:\- ]+", line):
            rows.append(line)
    return rows


def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, FUNCTION)}


def test_every_promise_has_its_tests_and_every_test_exists():
    rows = promises()

    assert len(rows) > 30
    assert [row for row in rows if not TEST.findall(row.rsplit("|", 2)[1])] == []
    named = TEST.findall(PAGE)
    assert [f"{file}::{name}" for file, name in named if name not in functions(file)] == []


@pytest.fixture
def door(replica_of, publish, http):
    """(client, replica) with a task published, without tokens."""
    publish("digits", "alore", labels=6)
    replica = replica_of()
    return http(replica), replica


def predict(client, body):
    return client.post("/v1/tasks/digits:predict", content=body)


def test_a_web_page_is_neither_let_in_nor_told_anything(door):
    """Its own name may lead here; and other verbs than POST it asks about first."""
    client, _ = door

    for host in ("evil.example", "evil.example:8000"):
        assert client.delete("/v1/tasks/digits", headers={"Host": host}).status_code == 403
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    answer = client.options("/v1/tasks/digits", headers=asked)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("why", ["\x1b[2J", "a\nb", "a\x7f", "a\x9b2J", "w" * 1001])
def test_a_reason_that_a_terminal_would_obey_is_refused(door, why):
    client, replica = door
    before = replica.store.catalog()

    order = client.post("/v1/tasks/digits:activate", json={"release": 1, "why": why})
    header = why.replace("\n", "\x1b").encode("latin-1")
    retired = client.delete("/v1/tasks/digits", headers={"X-Why": header})

    assert (order.status_code, retired.status_code) == (400, 400)
    assert replica.store.catalog() == before


def test_what_is_open_to_everybody_names_no_place(door, tmp_path, png):
    client, _ = door
    predict(client, png)

    paths = ("/readyz", "/healthz", "/metrics", "/v1/tasks/digits", "/v2", "/openapi.json")
    texts = [client.get(path).text for path in paths]

    assert all(texts)
    assert not [text for text in texts if str(tmp_path) in text or "file://" in text]
