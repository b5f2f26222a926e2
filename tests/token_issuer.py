"""An issuer of tokens for tests: keys of several kinds, the set of them by file or HTTP, and tokens good and bad.

issuer = Issuer()
issuer.token("alice", now_s)                                    a good one
issuer.token("alice", now_s, aud="somebody else")               with another claim
issuer.token("alice", now_s, key="ed25519")                     by another key
with published(issuer) as place:
    place.url                                                   "http://127.0.0.1:.../keys"
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

ISSUER = "https://issuer.example"
AUDIENCE = "kafka"
MISSING = object()
_SIGNS = {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("Ed",)}
_IN_LIBRARY = {"EdDSA": "Ed25519"}


@functools.cache
def _made() -> dict[str, tuple[str, Any]]:
    """Keys with the algorithm of each; made once, since RSA keys take a while."""
    return {
        "rsa": ("RS256", RSAKey.generate_key(2048, {"kid": "rsa"})),
        "rsa-pss": ("PS256", RSAKey.generate_key(2048, {"kid": "rsa-pss", "alg": "PS256"})),
        "ec": ("ES256", ECKey.generate_key("P-256", {"kid": "ec"})),
        "ec384": ("ES384", ECKey.generate_key("P-384", {"kid": "ec384"})),
        "ec521": ("ES512", ECKey.generate_key("P-521", {"kid": "ec521"})),
        "ed25519": ("EdDSA", OKPKey.generate_key("Ed25519", {"kid": "ed25519"})),
        "unpublished": ("RS256", RSAKey.generate_key(2048, {"kid": "unpublished"})),
    }


def part(value: object) -> str:
    """A header or payload as it is in a token."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


class Issuer:
    """Keys, and what is signed with them."""

    def __init__(self, *names: str) -> None:
        self._keys = _made()
        self.published = list(names) or [name for name in self._keys if name != "unpublished"]

    @property
    def keys(self) -> bytes:
        """The public keys, as an issuer publishes them."""
        return json.dumps({"keys": [self.public(name) for name in self.published]}).encode()

    def public(self, name: str) -> dict[str, Any]:
        _, key = self._keys[name]
        return {**key.as_dict(private=False), "use": "sig"}

    def pem(self, name: str) -> bytes:
        """A public key as text, which attackers take for the secret of an HMAC."""
        return bytes(self._keys[name][1].as_pem(private=False))

    def claims(self, name: str, now_s: float, **changed: Any) -> dict[str, Any]:
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": name,
            "iat": int(now_s),
            "exp": int(now_s) + 3600,
            **changed,
        }
        return {claim: value for claim, value in claims.items() if value is not MISSING}

    def token(
        self, name: str, now_s: float, *, key: str = "rsa", header: dict[str, Any] | None = None, **changed: Any
    ) -> str:
        """A token; claims that are `MISSING` are left out, and `header` changes the header."""
        return self.signed(key, self.claims(name, now_s, **changed), header)

    def signed(self, key: str, payload: object, header: dict[str, Any] | None = None) -> str:
        """A token with any payload; `alg` in `header` is what it claims, the key's own is what it is signed with."""
        algorithm, signer = self._keys[key]
        said = {"alg": algorithm, "typ": "JWT", "kid": key, **(header or {})}
        signed = f"{part({name: value for name, value in said.items() if value is not MISSING})}.{part(payload)}"
        claimed = said["alg"]
        is_possible = isinstance(claimed, str) and claimed[:2] in _SIGNS[signer.key_type]
        model = JWSRegistry.algorithms[
            _IN_LIBRARY.get(claimed, claimed) if is_possible else _IN_LIBRARY.get(algorithm, algorithm)
        ]
        return f"{signed}.{part(model.sign(signed.encode(), signer))}"

    def hmac_token(self, secret: bytes, name: str, now_s: float, kid: str = "rsa") -> str:
        """A token whose key is taken for a secret."""
        signed = f"{part({'alg': 'HS256', 'kid': kid})}.{part(self.claims(name, now_s))}"
        return f"{signed}.{part(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


@dataclass
class Place:
    """Where keys are published: `body` and `status` are what the next request gets."""

    url: str = ""
    body: bytes = b""
    status: int = 200
    requests: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


@contextlib.contextmanager
def published(issuer: Issuer) -> Iterator[Place]:
    """A server on a free port of this machine."""
    place = Place(body=issuer.keys)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place.requests += 1
            body = place.body
            self.send_response(place.status)
            for name, value in place.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)
            place.asked.release()

        def log_message(self, format: str, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place.url = f"http://127.0.0.1:{server.server_address[1]}/keys"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield place
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
