"""Tokens that must not let anybody in, by the attack that each one is."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

from cryptography.hazmat.primitives import serialization
from tests.tokens import NAME, Issuer, assembled, encoded


def attacks(issuer: Issuer, stranger: Issuer) -> dict[str, str]:
    """Tokens for "alice"; `stranger` has a key that nobody has published."""
    good = issuer.token("alice")
    head, claims, signature = good.split(".")
    rsa_as_secret = issuer.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def with_secret(secret: bytes) -> Any:
        return lambda data: hmac.new(secret, data, hashlib.sha256).digest()

    def signed(head: dict[str, Any], **more: Any) -> str:
        return issuer.token("alice", head=head, **more)

    def unsigned(algorithm: Any) -> str:
        return assembled({"alg": algorithm, "typ": "JWT"}, issuer.claims("alice"), lambda _: b"")

    def claiming(body: bytes) -> str:
        return assembled({"alg": "RS256", "kid": issuer.key_id}, body, issuer.sign)

    now = int(time.time())
    nested = b'{"sub":"alice","x":' + b"[" * 5000 + b"]" * 5000 + b"}"
    twice = b'{"sub":"alice","sub":"admin","iss":"%s","aud":"kafka","exp":%d}' % (NAME.encode(), now + 300)
    return {
        "nothing": "",
        "no token at all": "not a token",
        "two parts": f"{head}.{claims}",
        "four parts": f"{good}.{signature}",
        "alg none": unsigned("none"),
        "alg None": unsigned("None"),
        "alg none, signed": signed({"alg": "none"}),
        "alg missing": unsigned(None),
        "alg a list": unsigned(["RS256"]),
        "no signature": f"{head}.{claims}.",
        "a signature of another token": f"{head}.{issuer.token('admin').split('.')[1]}.{signature}",
        "cut signature": good[:-10],
        "wrong key": stranger.token("alice"),
        "wrong key under a new name": stranger.token("alice", head={"kid": "unheard of"}),
        "the public key as a secret": assembled(
            {"alg": "HS256", "kid": issuer.key_id}, issuer.claims("alice"), with_secret(rsa_as_secret)
        ),
        "the modulus as a secret": assembled(
            {"alg": "HS256", "kid": issuer.key_id},
            issuer.claims("alice"),
            with_secret(issuer.public_key()["n"].encode()),
        ),
        "another algorithm's name": signed({"alg": "RS512"}),
        "its own key in the header": stranger.token("alice", head={"jwk": stranger.public_key()}),
        "its own keys' address": stranger.token("alice", head={"jku": "https://127.0.0.1:1/keys"}),
        "its own certificate's address": stranger.token("alice", head={"x5u": "file:///etc/passwd"}),
        "kid of a path": stranger.token("alice", head={"kid": "../../../../dev/null"}),
        "kid of SQL": stranger.token("alice", head={"kid": "x' UNION SELECT 'key"}),
        "kid a number": signed({"kid": 1}),
        "kid an object": signed({"kid": {"a": 1}}),
        "a critical extension": signed({"crit": ["exp"], "exp": now + 300}),
        "an encrypted token's header": assembled(
            {"alg": "RSA-OAEP", "enc": "A128GCM"}, issuer.claims("alice"), issuer.sign
        ),
        "expired": issuer.token("alice", lifetime_s=-60),
        "without an end": issuer.token("alice", exp=None),
        "an end that is text": issuer.token("alice", exp="tomorrow"),
        "an end that is no number": claiming(b'{"sub":"alice","exp":NaN}'),
        "not yet good": issuer.token("alice", nbf=now + 600),
        "made in the future": issuer.token("alice", iat=now + 600, nbf=now + 600),
        "another issuer": issuer.token("alice", iss="https://elsewhere.invalid/"),
        "another audience": issuer.token("alice", aud="somebody else"),
        "no audience": issuer.token("alice", aud=None),
        "no subject": issuer.token("alice", sub=None),
        "an empty subject": issuer.token(""),
        "a subject that is a list": issuer.token("alice", sub=["alice"]),
        "claims that are a list": claiming(b'["alice"]'),
        "claims that are no JSON": claiming(b"{"),
        "claims that are no UTF-8": claiming(b'{"sub":"\xff\xfe"}'),
        "claims within claims": claiming(nested),
        "a number of 10,000 digits": claiming(b'{"sub":"alice","exp":' + b"9" * 10_000 + b"}"),
        "a number beyond all bounds": claiming(b'{"sub":"alice","exp":1e999}'),
        "a claim said twice": claiming(twice),
        "a header that is a list": f"{encoded(json.dumps([1]).encode())}.{claims}.{signature}",
        "a header within headers": f"{encoded(b'[' * 5000 + b']' * 5000)}.{claims}.{signature}",
        "padding": f"{head}==.{claims}==.{signature}==",
        "base64 of another kind": good.replace("-", "+").replace("_", "/") + "+/",
        "white space": f"{head}. {claims}.{signature}",
        "control characters": f"{head}.{claims}\x00.{signature}",
    }
