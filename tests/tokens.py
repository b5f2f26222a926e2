"""An issuer of JSON Web Tokens for tests. It signs with `cryptography` alone, so that it can also make what no library would.

issuer = Issuer(folder)                  its public keys are in folder/jwks.json
issuer.token("alice")                    good for five minutes
issuer.token("alice", lifetime_s=-60)    has expired
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

AUDIENCE = "kafka"
NAME = "https://issuer.invalid/"

Signer = Callable[[bytes], bytes]


def encoded(data: bytes) -> str:
    """base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs with RSA (RS256)."""

    def __init__(self, folder: Path, key_id: str = "first", *, is_published: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.key_id = key_id
        self.key = rsa.generate_private_key(65537, 2048)
        self.jwks = folder / "jwks.json"
        if is_published:
            self.jwks.write_text(json.dumps({"keys": [self.public_key()]}))

    def public_key(self) -> dict[str, str]:
        """As a JSON Web Key."""
        numbers = self.key.public_key().public_numbers()
        n, e = (encoded(number.to_bytes((number.bit_length() + 7) // 8)) for number in (numbers.n, numbers.e))
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.key_id, "n": n, "e": e}

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())

    def claims(self, subject: str, lifetime_s: float = 300, **more: Any) -> dict[str, Any]:
        """What a good token says, and `more`; None leaves a claim out."""
        now = time.time()
        usual = {"sub": subject, "iss": NAME, "aud": AUDIENCE, "iat": int(min(now, now + lifetime_s)) - 1}
        claims = usual | {"exp": int(now + lifetime_s), "jti": f"{now}"} | more
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, subject: str, lifetime_s: float = 300, *, head: dict[str, Any] | None = None, **more: Any) -> str:
        """A signed token; `head` changes its header, `more` its claims."""
        return assembled(
            {"alg": "RS256", "typ": "JWT", "kid": self.key_id} | (head or {}),
            self.claims(subject, lifetime_s, **more),
            self.sign,
        )


def assembled(head: dict[str, Any], claims: dict[str, Any] | bytes, sign: Signer) -> str:
    """A token of these parts, whatever they say."""
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = f"{encoded(json.dumps(head).encode())}.{encoded(body)}"
    return f"{signed}.{encoded(sign(signed.encode()))}"
