"""What a token must be before somebody is believed: a JSON Web Token (RFC 7519), signed by a key that we know.

    token = check("eyJhbGci...", keys, Expected(issuer="https://id.example.com", audiences=("kafka",)), now_s)
    token.name, token.lifetime_ms          who it is, and for how long

    header.payload.signature         each is base64url; header and payload are JSON objects

The order matters: sizes, then the header, then the signature, and only then is the payload read. Times are checked as
Kafka's BrokerJwtValidator checks them: `exp` and `iat` have to be there, and clocks may differ by `clock_skew_s`. An `iat`
in the future is refused besides.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pg_kafka.security import strict_json
from pg_kafka.security.jwks import ALGORITHMS, MAX_CANDIDATES, KeySet
from pg_kafka.security.oauth import MAX_TOKEN_CHARACTERS

MAX_HEADER_CHARACTERS = 4 * 1024
MAX_NAME_CHARACTERS = 512
MAX_KID_CHARACTERS = 1024
LAST_SECOND = 2**53
"""No time beyond it; every smaller whole number is exact, also as a double."""
_COMPACT = re.compile(r"([-_A-Za-z0-9]+)\.([-_A-Za-z0-9]+)\.([-_A-Za-z0-9]+)")


class TokenError(Exception):
    """The token proves nothing. The message is for our log: clients learn only that it is not good."""


class UnknownKey(TokenError):
    """The token names a key that is not among those we have. There may be new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What tokens have to say besides being signed. Without an issuer any will do."""

    issuer: str | None = None
    audiences: Sequence[str] = ()
    clock_skew_s: int = 30
    subject_claim: str = "sub"
    scope_claim: str = "scope"


class Token(NamedTuple):
    """A token that is good."""

    name: str
    lifetime_ms: int  # from `now_s` on


def check(token: str, keys: KeySet, expected: Expected, now_s: float) -> Token:
    """Raises TokenError, UnknownKey."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise TokenError(f"a token has at most {MAX_TOKEN_CHARACTERS} characters")
    found = _COMPACT.fullmatch(token)
    if found is None:
        raise TokenError("no JSON Web Token with a signature: three parts of base64url with dots between them")
    if len(found[1]) > MAX_HEADER_CHARACTERS:
        raise TokenError("the header is too long")
    algorithm, kid = _meant(_object(found[1], "header"))
    _check_signature(found, algorithm, kid, keys)
    return _believed(_object(found[2], "payload"), expected, now_s)


def _meant(header: Mapping[str, Any]) -> tuple[str, str | None]:
    """The algorithm and the key that a header names. Keys that it brings along are never used, addresses never followed."""
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenError(f"alg is {_shown(algorithm)}, which is not accepted")
    if "crit" in header or header.get("b64", True) is not True:
        raise TokenError("the header has an extension that must be understood and is not known")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID_CHARACTERS):
        raise TokenError("kid is no text, or too long")
    return algorithm, kid


def _check_signature(found: re.Match[str], algorithm: str, kid: str | None, keys: KeySet) -> None:
    if kid is not None and not keys.knows(kid):
        raise UnknownKey(f"kid is {_shown(kid)}, which is none of the keys of the issuer")
    candidates = keys.candidates(kid, algorithm)
    if not candidates:
        raise TokenError(f"alg is {algorithm}, and the key that is meant is not for it")
    if len(candidates) > MAX_CANDIDATES:
        raise TokenError(f"too many keys may be meant, {len(candidates)}: the token has to name one (kid)")
    signed = f"{found[1]}.{found[2]}".encode()
    signature = _decoded(found[3], "signature")
    if not any(key.verifies(algorithm, signed, signature) for key in candidates):
        raise TokenError("the signature is wrong")


def _believed(claims: Mapping[str, Any], expected: Expected, now_s: float) -> Token:
    """What a payload says, whose signature is right."""
    skew_s = expected.clock_skew_s
    expires_s, issued_s = _time(claims, "exp"), _time(claims, "iat")
    if expires_s is None or issued_s is None:
        raise TokenError("exp or iat is missing")
    begins_s = _time(claims, "nbf")
    if now_s - skew_s >= expires_s:
        raise TokenError("it has expired")
    if issued_s > now_s + skew_s or (begins_s is not None and begins_s > now_s + skew_s):
        raise TokenError("it is not valid yet")
    if expires_s < issued_s or (begins_s is not None and expires_s < begins_s):
        raise TokenError("it expires before it begins")
    if expected.issuer is not None and claims.get("iss") != expected.issuer:
        raise TokenError(f"iss is {_shown(claims.get('iss'))}, not the one that is expected")
    _check_audience(claims.get("aud"), expected.audiences)
    _check_scopes(claims.get(expected.scope_claim), expected.scope_claim)
    left_s = expires_s - now_s
    # With a clock that is behind, an expired token is good for the rest of the time that clocks may differ by.
    return Token(_name(claims, expected.subject_claim), max(1, int((left_s if left_s > 0 else left_s + skew_s) * 1000)))


def _check_audience(audience: object, expected: Sequence[str]) -> None:
    """A token that is meant for somebody is for nobody else (RFC 7519, section 4.1.3)."""
    named = [audience] if isinstance(audience, str) else [] if audience is None else audience
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise TokenError("aud is neither a text nor a list of texts")
    if not expected and named:
        raise TokenError("it is meant for an audience (aud), and sasl.oauthbearer.expected.audience is not set")
    if expected and not set(expected).intersection(named):
        raise TokenError(f"aud is {_shown(audience)}, which has nothing that is expected")


def _check_scopes(scopes: object, claim: str) -> None:
    """Kafka's rule: a text or a list of texts, none empty and none twice. What they say decides nothing."""
    named = [scopes] if isinstance(scopes, str) else scopes if isinstance(scopes, list) else []
    if not all(isinstance(name, str) and name.strip() for name in named) or len(set(named)) != len(named):
        raise TokenError(f"{claim} has a scope that is empty or comes twice")


def _name(claims: Mapping[str, Any], claim: str) -> str:
    name = claims.get(claim)
    if not isinstance(name, str) or not name:
        raise TokenError(f"{claim} is missing, empty or no text")
    # A name that looks like another one's must not be taken for it.
    if len(name) > MAX_NAME_CHARACTERS or name.strip() != name or not name.isprintable():
        raise TokenError(f"{claim} is too long, or has spaces around it or characters that nobody sees")
    return name


def _time(claims: Mapping[str, Any], claim: str) -> float | None:
    """Seconds since 1970, or None."""
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LAST_SECOND:
        raise TokenError(f"{claim} is no time")
    return float(value)


def _object(text: str, what: str) -> Mapping[str, Any]:
    try:
        value = strict_json.loads(_decoded(text, what))
    except strict_json.StrictJsonError as error:
        raise TokenError(f"the {what} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise TokenError(f"the {what} is no object")
    return value


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise TokenError(f"the {what} is no base64url") from None


def _shown(value: object) -> str:
    """A piece of somebody else's text for the log."""
    return repr(value)[:80]
