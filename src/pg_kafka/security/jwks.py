"""The keys that tokens are checked with: a JSON Web Key Set (RFC 7517).

    keys = KeySet.read(b'{"keys": [{"kty": "RSA", "kid": "2026-11", "n": "...", "e": "AQAB"}]}')
    for key in keys.candidates("2026-11", "RS256"):
        key.verifies("RS256", signed, signature)

A key serves the algorithms of its own type and no other, so that a public key is never taken for the secret of an HMAC.
Symmetric keys are not taken at all. What a set has besides (encryption keys, types of the future) is left out, and
`left_out` says why. Numbers are bounded before anything is computed with them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from pg_kafka.security import strict_json

MAX_BYTES = 512 * 1024
MAX_KEYS = 200
MAX_CANDIDATES = 4
"""Signatures that are computed for one token at most: it names its key, or few keys can be meant."""
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
MAX_RSA_EXPONENT_BYTES = 4

_RSA = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
_CURVES: Mapping[tuple[str, str], tuple[frozenset[str], int]] = {
    ("EC", "P-256"): (frozenset(("ES256",)), 32),
    ("EC", "P-384"): (frozenset(("ES384",)), 48),
    ("EC", "P-521"): (frozenset(("ES512",)), 66),
    ("OKP", "Ed25519"): (frozenset(("EdDSA", "Ed25519")), 32),
}
"""What a curve is for, and how long its coordinates are."""
ALGORITHMS = _RSA.union(*(algorithms for algorithms, _ in _CURVES.values()))
"""All that tokens may be signed with; `none` and HMAC are no part of it."""
_IN_LIBRARY = {"EdDSA": "Ed25519"}  # one algorithm with two names (RFC 9864)


class InvalidKeys(ValueError):
    """The text is no set of keys, or has none that can be used."""


class _Unusable(Exception):
    """Why one key of a set is left out."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key, and the algorithms that it may be used with."""

    kid: str | None
    algorithms: frozenset[str]
    key: Key

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Is this the signature of the key's owner? False for an algorithm that is not the key's."""
        if algorithm not in self.algorithms:
            return False
        model = JWSRegistry.algorithms[_IN_LIBRARY.get(algorithm, algorithm)]
        try:
            model.check_key(self.key)
            return model.verify(signed, signature, self.key)
        except (JoseError, ValueError):
            return False


@dataclass(frozen=True, slots=True)
class KeySet:
    """What an issuer has published at one time."""

    keys: Sequence[VerificationKey] = ()
    left_out: Sequence[str] = ()

    @classmethod
    def read(cls, text: bytes) -> KeySet:
        """Raises InvalidKeys."""
        if len(text) > MAX_BYTES:
            raise InvalidKeys(f"a set of keys has at most {MAX_BYTES} bytes")
        try:
            found = strict_json.loads(text)
        except strict_json.StrictJsonError as error:
            raise InvalidKeys(f"a set of keys cannot be read: {error}") from None
        members = found.get("keys") if isinstance(found, dict) else None
        if not isinstance(members, list):
            raise InvalidKeys('a set of keys is an object with a list "keys"')
        if len(members) > MAX_KEYS:
            raise InvalidKeys(f"a set of keys has at most {MAX_KEYS} keys")
        keys, left_out = [], []
        for number, member in enumerate(members, 1):
            try:
                keys.append(_key(member))
            except _Unusable as reason:
                left_out.append(f"key {number}: {reason}")
        if not keys:
            raise InvalidKeys(
                "a set of keys has none that tokens can be checked with" + "".join(map("; {}".format, left_out[:3]))
            )
        return cls(tuple(keys), tuple(left_out))

    def candidates(self, kid: str | None, algorithm: str) -> list[VerificationKey]:
        """The keys that may have signed a token; a token without `kid` may have been signed by any of its algorithm."""
        return [key for key in self.keys if kid in (None, key.kid) and algorithm in key.algorithms]

    def knows(self, kid: str) -> bool:
        return any(key.kid == kid for key in self.keys)


def _key(member: object) -> VerificationKey:
    if not isinstance(member, dict):
        raise _Unusable("no object")
    if member.get("use", "sig") != "sig":
        raise _Unusable("not for signatures (use)")
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _Unusable("not for verifying (key_ops)")
    kid = member.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _Unusable("its kid is no text")
    kind, curve = member.get("kty"), member.get("crv", "")
    if kind == "RSA":
        algorithms, key = _RSA, _rsa(member)
    elif isinstance(kind, str) and isinstance(curve, str) and (kind, curve) in _CURVES:
        algorithms, length = _CURVES[kind, curve]
        key = _on_curve(member, kind, curve, length)
    else:
        raise _Unusable("neither RSA, nor EC on P-256, P-384 or P-521, nor Ed25519")
    own = member.get("alg")
    if own is not None:
        algorithms = frozenset((own,)) & algorithms if isinstance(own, str) else frozenset()
        if not algorithms:
            raise _Unusable("its alg does not fit its type")
    return VerificationKey(kid, algorithms, key)


def _rsa(member: Mapping[str, Any]) -> Key:
    modulus, exponent = _bytes(member, "n", MAX_RSA_BITS // 8), _bytes(member, "e", MAX_RSA_EXPONENT_BYTES)
    if int.from_bytes(modulus).bit_length() < MIN_RSA_BITS:
        raise _Unusable(f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    return _imported(RSAKey, {"kty": "RSA", "n": _text(modulus), "e": _text(exponent)})


def _on_curve(member: Mapping[str, Any], kind: str, curve: str, length: int) -> Key:
    names = ("x", "y") if kind == "EC" else ("x",)
    point = {name: _text(_bytes(member, name, length).rjust(length, b"\0")) for name in names}
    return _imported(ECKey if kind == "EC" else OKPKey, {"kty": kind, "crv": curve, **point})


def _imported(kind: Any, public: dict[str, str]) -> Key:
    """Only what is public of a key is given on: what else a set says about it is not ours to know."""
    try:
        key: Key = kind.import_key(public)
    except (JoseError, ValueError):
        raise _Unusable("its numbers are no key") from None
    return key


def _bytes(member: Mapping[str, Any], name: str, most: int) -> bytes:
    """A number of a key, without leading zeros. Its length is looked at first."""
    text = member.get(name)
    if not isinstance(text, str) or not text or len(text) > most * 2:
        raise _Unusable(f"its {name} is missing or too long")
    try:
        number = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).lstrip(b"\0")
    except (ValueError, binascii.Error):
        raise _Unusable(f"its {name} is no base64url") from None
    if not number or len(number) > most:
        raise _Unusable(f"its {name} is zero or too long")
    return number


def _text(number: bytes) -> str:
    return base64.urlsafe_b64encode(number).rstrip(b"=").decode()
