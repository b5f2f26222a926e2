"""A peer that logs in as exactly as a test wants it, right or wrong, and tells what it is answered.

async with await Peer.connect(place, tls) as peer:
    await peer.handshake("PLAIN")
    await peer.authenticate(b"\0alice\0secret")
    peer.heard                                  ["0 PLAIN", "0"]

What closes the connection is heard as "closed". `ScramClient` is the client's side of SCRAM, of hashlib alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.broker.rawclient import RawClient

from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.metadata import MetadataRequest
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest

METADATA, HANDSHAKE, API_VERSIONS, AUTHENTICATE = 3, 17, 18, 36
ANSWER_S = 20.0


@dataclass(frozen=True)
class Place:
    """Where to connect."""

    host: str
    port: int


class Peer:
    """One connection, and what it has been answered."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.heard: list[str] = []

    @staticmethod
    async def connect(place: Place, tls: ssl.SSLContext | None = None) -> Peer:
        async with asyncio.timeout(ANSWER_S):
            return Peer(RawClient(*await asyncio.open_connection(place.host, place.port, ssl=tls, limit=1 << 22)))

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.writer.transport.abort()

    async def handshake(self, mechanism: str, version: int = 1) -> Any:
        answer = await self.ask(SaslHandshakeRequest(mechanism=mechanism), HANDSHAKE, version)
        if answer is not None:
            self.heard.append(f"{answer.error_code} {','.join(sorted(answer.mechanisms))}")
        return answer

    async def authenticate(self, token: bytes, version: int = 2) -> Any:
        """The answer; its token is not in `heard`, nor is how long the session lasts."""
        answer = await self.ask(SaslAuthenticateRequest(auth_bytes=token), AUTHENTICATE, version)
        if answer is not None:
            lasts = " for some time" if answer.session_lifetime_ms else ""
            self.heard.append(f"{answer.error_code} {answer.error_message or ''}".strip() + lasts)
        return answer

    async def raw_token(self, token: bytes) -> bytes | None:
        """A token without any header, as after SaslHandshake of version 0; what comes back, None: nothing."""
        self.client.writer.write(len(token).to_bytes(4) + token)
        try:
            async with asyncio.timeout(ANSWER_S):
                size = int.from_bytes(await self.client.reader.readexactly(4))
                answer = await self.client.reader.readexactly(size)
        except (EOFError, ConnectionError):
            self.heard.append("closed")
            return None
        self.heard.append("a token" if answer else "an empty token")
        return answer

    async def api_versions(self, version: int = 3) -> Any:
        request = ApiVersionsRequest(client_software_name="test", client_software_version="1")
        answer = await self.ask(request, API_VERSIONS, version)
        if answer is not None:
            self.heard.append(f"{answer.error_code} for ApiVersions")
        return answer

    async def metadata(self) -> Any:
        """A request that has to do with nobody's login."""
        answer = await self.ask(MetadataRequest(topics=[]), METADATA, 9)
        if answer is not None:
            self.heard.append(f"{len(answer.brokers)} broker")
        return answer

    async def ask(self, message: Any, api_key: int, version: int) -> Any:
        """The answer, or None when the connection is closed instead."""
        try:
            return await self.client.call(message, api_key, version, ANSWER_S)
        except (EOFError, ConnectionError):
            self.heard.append("closed")
            return None

    async def ends(self) -> None:
        """Hear how the connection goes on when nothing is sent."""
        try:
            async with asyncio.timeout(ANSWER_S):
                rest = await self.client.reader.read(1)
        except ConnectionError:
            rest = b""
        self.heard.append("more" if rest else "closed")

    async def scram(self, mechanism: str, name: str, password: str, client: ScramClient | None = None) -> None:
        """A whole dialogue."""
        client = client or ScramClient(mechanism, name, password)
        await self.handshake(mechanism)
        answer = await self.authenticate(client.first())
        if answer is not None and answer.error_code == 0:
            answer = await self.authenticate(client.final(bytes(answer.auth_bytes)))
            if answer is not None and answer.error_code == 0:
                client.check(bytes(answer.auth_bytes))


class ScramClient:
    """The client's side (RFC 5802); what it says can be made wrong by its attributes."""

    def __init__(self, mechanism: str, name: str, password: str, nonce: str = "fyko+d2lbbFgONRv9qkxdawL") -> None:
        self.header = "n,,"
        self.extensions = ""
        self.final_nonce: str | None = None  # None: the right one
        self.says_its_nonce_twice = False
        self.iterations: int | None = None  # None: those that the server says
        self._digest = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}[mechanism]
        self._password = password.encode()
        self._nonce = nonce
        self._name = name.replace("=", "=3D").replace(",", "=2C")
        self._signature = b""

    def first(self) -> bytes:
        return f"{self.header}{self._bare}".encode()

    @property
    def _bare(self) -> str:
        return f"n={self._name},r={self._nonce}{self.extensions}"

    def final(self, challenge: bytes) -> bytes:
        said = dict(part.split("=", 1) for part in challenge.decode().split(","))
        salt, iterations = b64decode(said["s"]), self.iterations or int(said["i"])
        nonce = said["r"] if self.final_nonce is None else self.final_nonce
        if self.says_its_nonce_twice:
            nonce = self._nonce + nonce
        without_proof = f"c={b64encode(self.header.encode()).decode()},r={nonce}"
        signed = f"{self._bare},{challenge.decode()},{without_proof}".encode()
        salted = hashlib.pbkdf2_hmac(self._digest, self._password, salt, iterations)
        key = self._hmac(salted, b"Client Key")
        signature = self._hmac(hashlib.new(self._digest, key).digest(), signed)
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        self._signature = self._hmac(self._hmac(salted, b"Server Key"), signed)
        return f"{without_proof},p={b64encode(proof).decode()}".encode()

    def check(self, answer: bytes) -> None:
        """Raises AssertionError when the server does not know the password."""
        assert answer == b"v=" + b64encode(self._signature), answer

    def _hmac(self, key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, self._digest).digest()


def plain(name: str, password: str, authorization: str = "") -> bytes:
    return f"{authorization}\0{name}\0{password}".encode()


def bearer(token: str | bytes, header: bytes = b"n,,", extensions: Sequence[bytes] = ()) -> bytes:
    """The first message of OAUTHBEARER (RFC 7628)."""
    value = token.encode() if isinstance(token, str) else token
    return b"\x01".join((header, b"auth=Bearer " + value, *extensions, b"", b""))
