"""The gate: tokens, scopes, and the one exception for a server on loopback."""

import hashlib

import pytest

from serving.auth import Gate, is_loopback
from serving.config import Token
from serving.errors import ForbiddenError, UnauthorizedError

READER, KEEPER = "reader-0123456789", "keeper-0123456789"


def token(secret: str, *scopes: str, name: str = "") -> Token:
    """A token as the settings hold it: by its hash alone."""
    return Token(sha256=hashlib.sha256(secret.encode()).hexdigest(), scopes=scopes, name=name)


@pytest.fixture
def gate() -> Gate:
    """One token that may predict, one that may do everything and has a name."""
    return Gate((token(READER, "predict"), token(KEEPER, "predict", "admin", name="anna")), "::")


def test_without_tokens_everybody_predicts_and_loopback_administers():
    """An open server on loopback lets its own machine do everything."""
    gate = Gate((), "127.0.0.1")

    assert gate.check("predict", None) == "anonymous"
    assert gate.check("admin", "Bearer anything") == "anonymous"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", ""])
def test_without_tokens_a_reachable_server_is_never_administered(host):
    """What the server is bound to decides, not who calls."""
    gate = Gate((), host)

    assert gate.check("predict", None) == "anonymous"
    with pytest.raises(ForbiddenError):
        gate.check("admin", None)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "127.0.0.1"])
def test_without_tokens_a_server_that_is_called_by_its_own_names_is_administered(host):
    """What browsers and clients of this machine write into Host."""
    assert Gate((), "::1").check("admin", None, host) == "anonymous"


@pytest.mark.parametrize("host", ["evil.example:8000", "", "localhost.evil.example", "[::1", "a b"])
def test_without_tokens_a_page_whose_name_leads_here_changes_nothing(host):
    """A page may have its own name resolve to 127.0.0.1: to the browser it is the page's server."""
    gate = Gate((), "127.0.0.1")

    with pytest.raises(ForbiddenError):
        gate.check("admin", None, host)
    assert gate.check("predict", None, host) == "anonymous"


def test_with_tokens_nobody_is_let_in_without_one(gate):
    """Configured tokens close predictions too, and a wrong scheme is no token."""
    for header in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {READER}",
        READER,
        "Bearer wrong",
        "Bé x",
    ):
        with pytest.raises(UnauthorizedError):
            gate.check("predict", header)


def test_with_tokens_loopback_is_no_excuse():
    """Once there are tokens, a bind to loopback opens nothing."""
    gate = Gate((token(READER, "predict"),), "127.0.0.1")

    with pytest.raises(UnauthorizedError):
        gate.check("admin", None)


def test_a_token_does_what_its_scopes_say(gate):
    """A reader predicts and changes nothing; a keeper does both."""
    assert gate.check("predict", f"Bearer {READER}").startswith("token ")
    with pytest.raises(ForbiddenError):
        gate.check("admin", f"Bearer {READER}")
    assert gate.check("admin", f"bearer {KEEPER}") == "anna"


def test_the_author_of_an_unnamed_token_tells_it_apart_without_giving_it_away(gate):
    """The log gets the start of the hash."""
    author = gate.check("predict", f"Bearer {READER}")

    assert author == f"token {hashlib.sha256(READER.encode()).hexdigest()[:8]}"


def test_every_token_is_compared_wherever_the_match_is(monkeypatch):
    """The time of a check does not tell which token matched, or whether one did."""
    compared = []
    same = Gate.check.__globals__["hmac"].compare_digest
    monkeypatch.setattr(
        "serving.auth.hmac.compare_digest", lambda a, b: compared.append(a) or same(a, b)
    )
    gate = Gate(tuple(token(s, "predict") for s in ("first-token", "second-token", "third")), "::")

    gate.check("predict", "Bearer first-token")
    with pytest.raises(UnauthorizedError):
        gate.check("predict", "Bearer none-of-them")

    assert len(compared) == 6


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("localhost", True), ("::1", True), ("[::1]", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.evil.org", False),
     ("127.0.0.1.evil.org", False), ("", False)],
)  # fmt: skip
def test_only_loopback_addresses_are_loopback(host, loopback):
    """Names that merely look local are not."""
    assert is_loopback(host) is loopback
