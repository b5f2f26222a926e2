"""OAUTHBEARER, the broker's side: what the client's messages say (RFC 7628, KIP-255).

    client-first   gs2-header SOH *(key "=" value SOH) SOH        gs2-header: "n,," | "n,a=" name ","
                   n,,<SOH>auth=Bearer eyJhbGci...<SOH>traceId=7<SOH><SOH>
    server         nothing when the token is good, else {"status":"invalid_token"}
    client         SOH, after which the broker says once more that it has failed

SOH is the byte 1. What the token says is another matter (`security/tokens.py`). Extensions are read and not used, as in
Kafka's own validator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

MECHANISM = "OAUTHBEARER"
MAX_TOKEN_CHARACTERS = 16 * 1024
"""HTTP servers take headers of no more, so that longer tokens are of no use to anybody."""
MAX_MESSAGE_BYTES = 2 * MAX_TOKEN_CHARACTERS
INVALID_TOKEN = b'{"status":"invalid_token"}'
"""What Kafka says of every token that is not good (RFC 7628, section 3.2.2; RFC 6750, section 3.1)."""
SEEN = b"\x01"
"""The client's answer to that."""

_INVALID = "Invalid OAUTHBEARER client first message"
_KEY = re.compile(r"[A-Za-z]+")
_VALUE = re.compile(r"[\x21-\x7E \t\r\n]+")
_AUTH = re.compile(r"(\w+) +([-_.A-Za-z0-9]+)", re.ASCII)


class OauthError(Exception):
    """The message cannot be read. Its text may be shown to the client: it has nothing of the token."""


class ClientFirst(NamedTuple):
    """What a client wants to come in with."""

    token: str
    authorization: str  # the name that the client gives itself, or nothing
    extensions: Mapping[str, str]

    def __repr__(self) -> str:
        return f"ClientFirst(authorization={self.authorization!r})"


def client_first(message: bytes) -> ClientFirst:
    """Raises OauthError with Kafka's sentences."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise OauthError(f"{_INVALID}: too long")
    try:
        text = message.decode()
    except UnicodeDecodeError:
        raise OauthError(f"{_INVALID}: not UTF-8") from None
    header, separator, rest = text.partition("\x01")
    if not separator or not rest.endswith("\x01"):
        raise OauthError(_INVALID)
    pairs = _pairs(rest[:-1])
    auth = pairs.pop("auth", None)
    if auth is None:
        raise OauthError(f"{_INVALID}: 'auth' not specified")
    found = _AUTH.fullmatch(auth)
    if found is None:
        raise OauthError(f"{_INVALID}: invalid 'auth' format")
    if found[1].lower() != "bearer":
        raise OauthError("Invalid scheme in OAUTHBEARER client first message")
    if len(found[2]) > MAX_TOKEN_CHARACTERS:
        raise OauthError(f"{_INVALID}: the token is too long")
    return ClientFirst(found[2], _authorization(header), pairs)


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    if not text:
        return pairs
    if not text.endswith("\x01"):
        raise OauthError(_INVALID)
    for part in text[:-1].split("\x01"):
        key, equals, value = part.partition("=")
        if not equals or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value) or key in pairs:
            raise OauthError(_INVALID)
        pairs[key] = value
    return pairs


def _authorization(header: str) -> str:
    """The name in the header: `=2C` is a comma, `=3D` an equals sign, and nothing else is escaped."""
    parts = header.split(",")
    # "y": the client could bind to a channel and believes that we cannot, which is true.
    if len(parts) != 3 or parts[0] not in ("n", "y") or parts[2]:
        raise OauthError(_INVALID)
    if not parts[1]:
        return ""
    escaped = parts[1].removeprefix("a=")
    if escaped == parts[1] or not escaped or "=" in escaped.replace("=2C", "").replace("=3D", "") or "\0" in escaped:
        raise OauthError(_INVALID)
    return escaped.replace("=2C", ",").replace("=3D", "=")
