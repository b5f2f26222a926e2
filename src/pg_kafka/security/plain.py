"""PLAIN, the broker's side: one message with name and password (RFC 4616).

message     [authorization id] NUL name NUL password
"""

from __future__ import annotations

from typing import NamedTuple

MAX_MESSAGE_BYTES = 8192


class PlainError(Exception):
    """The message cannot be read, or asks for what is not given. Its text may be shown to the client: it has no secret."""


class Login(NamedTuple):
    """Who somebody claims to be, and how that is proved."""

    name: str
    password: str

    def __repr__(self) -> str:
        return f"Login(name={self.name!r})"


def login(message: bytes) -> Login:
    """Raises PlainError with Kafka's sentences."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise PlainError("Invalid SASL/PLAIN response: too long")
    try:
        parts = message.decode().split("\0")
    except UnicodeDecodeError:
        raise PlainError("Invalid SASL/PLAIN response: not UTF-8") from None
    if len(parts) != 3:
        raise PlainError(f"Invalid SASL/PLAIN response: expected 3 tokens, got {len(parts)}")
    authorization, name, password = parts
    if not name:
        raise PlainError("Authentication failed: username not specified")
    if not password:
        raise PlainError("Authentication failed: password not specified")
    if authorization and authorization != name:
        raise PlainError("Authentication failed: Client requested an authorization id that is different from username")
    return Login(name, password)
