"""Tokens of a file: read by every door at its start, named with every fault."""

import hashlib

import pytest

from serving import tokens
from serving.config import Settings, Token
from serving.tokens import TokenFileError

SECRET = "0123456789abcdef"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()


def test_a_file_adds_to_the_tokens_of_the_settings(tmp_path):
    """Only hashes, scopes and names arrive."""
    (tmp_path / "tokens").write_text(f"# ours\n\npredict,admin {SECRET} platform\n")
    own = Token(sha256="a" * 64, scopes=frozenset({"predict"}))
    settings = Settings(store="memory://", tokens=(own,), token_file=tmp_path / "tokens")

    found = tokens.given(settings).tokens

    theirs = Token(sha256=DIGEST, scopes=frozenset({"predict", "admin"}), name="platform")
    assert found == (own, theirs)


def test_without_a_file_the_settings_are_as_they_were():
    settings = Settings(store="memory://")

    assert tokens.given(settings) is settings


def test_every_fault_is_named_by_its_line_and_no_token_is_shown(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"predict\nroot {SECRET}\nadmin short\nadmin {SECRET} a b\n")

    with pytest.raises(TokenFileError) as caught:
        tokens.read(file)

    assert [fault.split()[1] for fault in caught.value.faults] == ["1", "2", "3", "4"]
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [(None, "cannot be read"), (b"\xff", "cannot be read"), (b"# no\n", "no token")],
)
def test_a_file_that_gives_nothing_is_refused(tmp_path, content, fault):
    """A server must not come up open because a secret was not mounted."""
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(TokenFileError, match=fault):
        tokens.given(Settings(store="memory://", token_file=file))
