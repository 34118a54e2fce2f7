"""Who may call what. Pure: knows tokens and the configured host, no request and no peer address."""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit

from serving.config import Token
from serving.errors import ForbiddenError, UnauthorizedError

Scope = Literal["predict", "admin"]


class Gate:
    """The tokens of one server."""

    def __init__(self, tokens: Sequence[Token], host: str) -> None:
        """Tokens with their scopes; `host` is what the ingress was configured to bind."""
        self._tokens, self._loopback = tuple(tokens), is_loopback(host)

    def check(self, scope: Scope, authorization: str | None, host: str | None = None) -> str:
        """The caller's name for the log.

        Without any configured token, predictions are open and changes need a server that is bound
        to loopback, and that is called by a name of loopback: a web page may have its own name
        lead here. The peer's address and `X-Forwarded-For` are never looked at: behind a proxy
        both are whatever somebody likes.

        Args:
            scope: what the call needs.
            authorization: the header of that name.
            host: the header of that name, of a change.

        Raises:
            UnauthorizedError: a token is needed and none that is known was sent.
            ForbiddenError: the token's scopes, or the host, do not allow it.
        """
        if not self._tokens:
            if scope == "predict":
                return "anonymous"
            if not self._loopback:
                raise ForbiddenError("changes need a token unless the server is bound to loopback")
            if host is not None and not is_loopback(_name(host)):
                raise ForbiddenError("changes need a token unless the server is called localhost")
            return "anonymous"
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret:
            raise UnauthorizedError
        given = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for token in self._tokens:  # all of them, always: time tells nothing
            if hmac.compare_digest(token.sha256, given):
                found = token
        if found is None:
            raise UnauthorizedError
        if scope not in found.scopes:
            raise ForbiddenError(f"this token may not {scope}")
        return found.name or f"token {found.sha256[:8]}"


def _name(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a server that binds this host is reachable from its own machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
