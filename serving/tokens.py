"""Tokens of a file, such as a mounted secret: lines of `scope[,scope] token [name]`.

Knows the lines and no request; of each token only the hash leaves this room.
"""

import hashlib
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from adapters_store.errors import RootstockError
from serving.config import Settings, Token

CHARACTERS_MIN: Final = 16


class TokenFileError(RootstockError):
    """A file of tokens that cannot be used."""

    def __init__(self, path: str, faults: tuple[str, ...]) -> None:
        super().__init__(path, faults)
        self.path, self.faults = path, faults

    def __str__(self) -> str:
        return f"{self.path}: {'; '.join(self.faults)}"


def given(settings: Settings) -> Settings:
    """The settings with the tokens of their file, read now.

    Raises:
        TokenFileError
    """
    if settings.token_file is None:
        return settings
    tokens = (*settings.tokens, *read(settings.token_file))
    return settings.model_copy(update={"tokens": tokens})


def read(path: Path) -> tuple[Token, ...]:
    """Every token of a file; empty lines and lines that begin with # say nothing.

    Raises:
        TokenFileError: with every fault, none of which shows a token.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenFileError(str(path), (f"cannot be read: {type(error).__name__}",)) from None
    found: list[Token] = []
    faults: list[str] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        token, fault = _parsed(words)
        if token is None:
            faults.append(f"line {number} {fault}")
        else:
            found.append(token)
    if not found and not faults:
        faults.append("it holds no token")
    if faults:
        raise TokenFileError(str(path), tuple(faults))
    return tuple(found)


def _parsed(words: list[str]) -> tuple[Token | None, str]:
    """A token, or what is wrong with its line."""
    if not 2 <= len(words) <= 3:
        return None, "is not `scope[,scope] token [name]`"
    if len(words[1]) < CHARACTERS_MIN or not words[1].isascii():
        return None, f"has a token of fewer than {CHARACTERS_MIN} ASCII characters"
    digest = hashlib.sha256(words[1].encode()).hexdigest()
    try:
        scopes = frozenset(words[0].split(","))
        return Token.model_validate(
            {"sha256": digest, "scopes": scopes, "name": "".join(words[2:])}
        ), ""
    except ValidationError:
        return None, "has a scope that is neither predict nor admin"
